"""DICE, a sparse head.  Source: Sun & Li 2022, arXiv:2111.09805.  Higher = more OOD."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from training.classifier import Classifier
from training.detectors.penultimate import FeatureSummary, linear_head
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs


class Dice(Detector):
    """Energy of a head that keeps only its weights of largest mean contribution on train-ID.

    The contribution of a weight is itself times the mean of its feature; those at or below the
    `percentile` of all are set to zero.
    """

    cost = "features"
    reference = "arXiv:2111.09805"
    summary = (
        "Energy of the logits of a head without the weights that contribute little to train-ID "
        "logits; needs train-ID features."
    )

    def __init__(self, percentile: float = 90.0) -> None:
        super().__init__()
        if not 0 <= percentile < 100:
            raise ValueError(f"dice: percentile is {percentile}; choose 0 or more, below 100")
        self.percentile = percentile
        self._head: tuple[Tensor, Tensor] | None = None
        self._summary = FeatureSummary()

    def prepare(self, classifier: Classifier) -> None:
        self._buffers.clear()
        self._head = linear_head(classifier)
        self._summary = FeatureSummary()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._summary.add(outputs.features)

    def finish(self) -> None:
        if self._head is None:
            raise FitError("dice saw no head: prepare it with the classifier first")
        weight, bias = self._head
        contributions = weight.double() * self._summary.mean()  # (K, D)
        threshold = float(np.percentile(contributions.numpy(), self.percentile))
        kept = contributions > threshold
        if not kept.any():
            raise FitError(
                f"dice: no contribution exceeds the {self.percentile:g}th percentile, "
                f"{threshold:g}; lower percentile"
            )
        self.register_buffer("weight", torch.where(kept, weight, torch.zeros_like(weight)))
        self.register_buffer("bias", bias)

    def remarks(self) -> tuple[str, ...]:
        weight = self.noted("weight")
        bare = [] if weight is None else (weight == 0).all(dim=1).nonzero().flatten().tolist()
        if not bare:
            return ()
        return (f"dice: classes {bare} keep none of their weights, so their logits are constant.",)

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"percentile": self.percentile}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> dice (B,), -logsumexp(W_sparse z + b)."""
        logits = linear(outputs.features, self.fitted("weight"), self.fitted("bias"))
        return {"dice": -torch.logsumexp(logits, dim=1)}
