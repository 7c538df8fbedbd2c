"""Distance to the decision boundaries.  Source: Liu & Qin 2024, arXiv:2312.11536.

Higher = more OOD.
"""

from typing import Literal

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.penultimate import FeatureSummary, linear_head
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs

Origin = Literal["train_mean", "zero"]
_SMALLEST_DISTANCE = 1e-12


class Fdbd(Detector):
    """Minus the distances of the features to all boundaries of the predicted class, summed, over
    their distance to the train-ID mean (`origin` train_mean) or their norm (zero).
    """

    cost = "features"
    reference = "arXiv:2312.11536"
    summary = (
        "Minus the distances of the features to the boundaries of the predicted class, relative "
        "to how far the features lie from the train-ID mean; needs train-ID features."
    )

    def __init__(self, origin: Origin = "train_mean") -> None:
        super().__init__()
        if origin not in ("train_mean", "zero"):
            raise ValueError(f"fdbd: origin {origin!r}; choose train_mean or zero")
        self.origin = origin
        self._weight = torch.zeros(0, 0)
        self._summary = FeatureSummary()

    def prepare(self, classifier: Classifier) -> None:
        self._weight, _ = linear_head(classifier)
        self._summary = FeatureSummary()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._summary.add(outputs.features)

    def finish(self) -> None:
        if not len(self._weight):
            raise FitError("fdbd saw no head: prepare it with the classifier first")
        weight = self._weight.double()
        # differences, not products: equal rows are then at a distance of exactly zero
        mode = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(weight, weight, compute_mode=mode)  # (K, K)
        off_diagonal = ~torch.eye(len(weight), dtype=torch.bool)
        equal = ((distances == 0) & off_diagonal).nonzero().tolist()
        if equal:
            raise FitError(
                f"fdbd: the head's weights are the same for classes {equal[0]}: no boundary lies "
                f"between them"
            )
        inverse = torch.where(off_diagonal, 1 / distances, torch.zeros_like(distances))
        mean = self._summary.mean()
        self.register_buffer("inverse_distances", inverse.float())
        self.register_buffer("center", (mean if self.origin == "train_mean" else 0 * mean).float())

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"origin": self.origin}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D), logits (B, K) -> fdbd (B,).

        - sum over c of (f_y - f_c) / |w_y - w_c|, over |z - center|, y the predicted class.
        """
        logits = outputs.logits
        gaps = logits - logits.amax(dim=1, keepdim=True)
        inverse = self.fitted("inverse_distances")[logits.argmax(dim=1)]  # (B, K)
        spread = (outputs.features - self.fitted("center")).norm(dim=1)
        return {"fdbd": (gaps * inverse).sum(dim=1) / spread.clamp(min=_SMALLEST_DISTANCE)}
