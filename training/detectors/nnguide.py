"""Nearest-neighbour guidance.  Source: Park et al. 2023, arXiv:2309.14888.

Higher = more OOD.
"""

import math

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.protocol import Detector, FitError
from training.detectors.reservoir import Reservoir
from training.detectors.vectors import finite, rows_within, unit_length
from training.outputs import Outputs

# k neighbours out of a bank of 5 k: the published 100 of the 500 that are 1 % of CIFAR-10.
_BANK_ROWS_A_NEIGHBOUR = 5


class NNGuide(Detector):
    """-LSE(f) times the mean of the k largest <z^, b_i>, b_i = z^_i LSE(f_i).

    z^ = z / ||z||, LSE = log-sum-exp of the logits.  The bank is a uniform sample of the
    training set: `bank_share` of it, at least 5 k rows where there are as many, at most what
    `bank_megabytes` hold.  From a smaller bank a fifth of its rows are averaged, which
    `remarks` says.  The product is meant for positive LSE; a negative one turns its sign.
    """

    cost = "bank"
    reference = "arXiv:2309.14888"
    summary = (
        "Energy times the energy-weighted similarity to the nearest normalised features of the "
        "training set."
    )

    def __init__(
        self,
        k: int = 100,
        bank_share: float = 0.01,
        bank_megabytes: float = 20.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"nnguide: k is {k}; it must be positive")
        if not 0 < bank_share <= 1:
            raise ValueError(f"nnguide: bank_share is {bank_share}; choose above 0, at most 1")
        if bank_megabytes <= 0:
            raise ValueError(f"nnguide: bank_megabytes is {bank_megabytes}; it must be positive")
        self.k = k
        self.bank_share = bank_share
        self.bank_megabytes = bank_megabytes
        self.seed = seed
        self._neighbours = 0  # a number, not a tensor: it fixes shapes in the exported graph
        self._sample: Reservoir | None = None

    def prepare(self, classifier: Classifier) -> None:
        self._sample = None

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        features = finite(outputs.features)
        if self._sample is None:
            rows = rows_within(self.bank_megabytes, features.shape[1])
            self._sample = Reservoir(rows, self.seed)
        energies = torch.logsumexp(outputs.logits.float(), dim=1, keepdim=True)
        self._sample.add(unit_length(features.float()), energies)

    def finish(self) -> None:
        if self._sample is None:
            raise FitError("nnguide saw no training inputs")
        directions, energies = self._sample.columns()
        share = math.ceil(self.bank_share * self._sample.passed)
        size = min(len(directions), max(share, _BANK_ROWS_A_NEIGHBOUR * self.k))
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(directions), generator=generator)[:size].sort().values
        energies = energies[chosen]
        neighbours = min(self.k, max(1, size // _BANK_ROWS_A_NEIGHBOUR))
        # (D, n), so that no graph transposes it
        self.register_buffer("bank", (directions[chosen] * energies).T.contiguous())
        self.register_buffer("neighbours", torch.tensor(neighbours))
        self.register_buffer("negative_share", (energies <= 0).float().mean())
        self._sample = None
        self._read_neighbours()

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._read_neighbours()

    def remarks(self) -> tuple[str, ...]:
        found = []
        taken, negative = int(self.fitted("neighbours")), float(self.fitted("negative_share"))
        if taken < self.k:
            found.append(
                f"nnguide: the mean is over {taken} neighbours instead of {self.k}; the bank "
                f"holds {self.fitted('bank').shape[1]} inputs."
            )
        if negative > 0:
            found.append(
                f"nnguide: {negative:.1%} of the bank have a log-sum-exp of logits that is not "
                "positive, where the score turns its sign; read it with care."
            )
        return tuple(found)

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "k": self.k,
            "bank_share": self.bank_share,
            "bank_megabytes": self.bank_megabytes,
            "seed": self.seed,
        }
        if "bank" in self._buffers:
            values["bank_size"] = self.fitted("bank").shape[1]
            values["neighbours"] = self._neighbours
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D), logits (B, K) -> (B,)."""
        similar = unit_length(outputs.features) @ self.fitted("bank")
        guidance = torch.topk(similar, self._neighbours, dim=1).values.mean(dim=1)
        return {"nnguide": -torch.logsumexp(outputs.logits, dim=1) * guidance}

    def _read_neighbours(self) -> None:
        self._neighbours = int(self.fitted("neighbours"))
