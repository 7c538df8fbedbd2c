"""Distance to the k-th nearest training feature.

Source: Sun et al. 2022, arXiv:2204.06507.  Higher = more OOD.
"""

import torch
from torch import Tensor
from torch.nn import functional

from training.classifier import Classifier
from training.detectors.protocol import Detector, FitError
from training.detectors.reservoir import Reservoir
from training.detectors.vectors import finite, rows_within, unit_length
from training.outputs import Outputs

# Candidates beyond k, for those that float32 ranks wrongly.
_SPARE = 16


class Knn(Detector):
    """||z^ - z^_(k)||, z^ = z / ||z||, over a bank of training features, exactly.

    The bank is a uniform sample of the training set, as many rows as `bank_megabytes` hold.
    `k` counts training inputs: a bank that holds a share of them is asked for the same share
    of k, so that both see the same neighbourhood.  Where k exceeds half the average class's
    rows, neighbours would be of other classes: it is lowered to that, which `remarks` says.

    One matrix product ranks the bank; the best k + 16 are then measured by subtraction and the
    k-th of these is the score, because 2 - 2 cos loses half the digits where neighbours are
    close, and with them the right order.
    """

    cost = "bank"
    reference = "arXiv:2204.06507"
    summary = "Distance of the normalised features to the k-th nearest ones of the training set."

    def __init__(self, k: int = 50, bank_megabytes: float = 20.0, seed: int = 0) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"knn: k is {k}; it must be positive")
        if bank_megabytes <= 0:
            raise ValueError(f"knn: bank_megabytes is {bank_megabytes}; it must be positive")
        self.k = k
        self.bank_megabytes = bank_megabytes
        self.seed = seed
        self._neighbour = 0  # a number, not a tensor: it fixes shapes in the exported graph
        self._sample: Reservoir | None = None
        self._classes = 0

    def prepare(self, classifier: Classifier) -> None:
        self._sample = None

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        features = finite(outputs.features)
        if self._sample is None:
            rows = rows_within(self.bank_megabytes, features.shape[1])
            self._sample = Reservoir(rows, self.seed)
            self._classes = outputs.logits.shape[1]
        self._sample.add(unit_length(features.float()))

    def finish(self) -> None:
        if self._sample is None:
            raise FitError("knn saw no training inputs")
        (rows,) = self._sample.columns()
        asked = max(1, round(self.k * len(rows) / self._sample.passed))
        most = max(1, len(rows) // (2 * self._classes))
        self.register_buffer("bank", rows)  # (n, D)
        self.register_buffer("lift", -rows.square().sum(dim=1) / 2)
        self.register_buffer("neighbour", torch.tensor(min(asked, most)))
        self.register_buffer("neighbour_asked", torch.tensor(asked))
        self._sample = None
        self._read_neighbour()

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._read_neighbour()

    def remarks(self) -> tuple[str, ...]:
        asked, taken = int(self.fitted("neighbour_asked")), int(self.fitted("neighbour"))
        if asked == taken:
            return ()
        return (
            f"knn: k is {taken} instead of {asked}: the bank holds no more than "
            f"{len(self.fitted('bank'))} inputs of all classes, and k is at most half of a "
            "class's.",
        )

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "k": self.k,
            "bank_megabytes": self.bank_megabytes,
            "seed": self.seed,
        }
        if "bank" in self._buffers:
            values["bank_size"] = len(self.fitted("bank"))
            values["neighbour"] = self._neighbour
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> distance to the k-th nearest of the bank (B,)."""
        bank = self.fitted("bank")
        unit = unit_length(outputs.features)
        # <u, b> - ||b||^2 / 2 ranks as -||u - b|| does; with its bias this is a Gemm, which
        # reads the bank as it is stored: no graph holds it a second time, transposed
        near = functional.linear(unit, bank, self.fitted("lift"))
        candidates = min(self._neighbour + _SPARE, len(bank))
        rows = functional.embedding(torch.topk(near, candidates, dim=1).indices, bank)
        distances = torch.linalg.vector_norm(unit[:, None, :] - rows, dim=2)
        nearest = torch.topk(distances, self._neighbour, dim=1, largest=False).values
        return {"knn": nearest[:, -1]}

    def _read_neighbour(self) -> None:
        self._neighbour = int(self.fitted("neighbour"))
