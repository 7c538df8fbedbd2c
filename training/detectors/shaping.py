"""Activation shaping, what ASH-S and SCALE share: a factor from the largest features' share.

exp(S / S_top), S the sum of an input's features, S_top that of its largest ones.  Without
negative features the exponent lies between 1 and D / k for k kept of D.
"""

from typing import ClassVar

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.penultimate import FeatureSummary, linear_head
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs

# exp of it still leaves float32 room for logits of any size
_LARGEST_EXPONENT = 50.0


class ActivationShaping(Detector):
    """Base of detectors that rescale the features; `percentile` of them are not among the top."""

    cost = "features"
    name: ClassVar[str]

    def __init__(self, percentile: float) -> None:
        super().__init__()
        if not 0 <= percentile < 100:
            raise ValueError(
                f"{self.name}: percentile is {percentile}; choose 0 or more, below 100"
            )
        self.percentile = percentile
        self._summary = FeatureSummary()

    def check_network(self, outputs: Outputs) -> None:
        self._refuse_negative(outputs.features.min().item(), "the untrained network")

    def prepare(self, classifier: Classifier) -> None:
        self._buffers.clear()
        self.register_buffer("bias", linear_head(classifier)[1])
        self._summary = FeatureSummary()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._summary.add(outputs.features)

    def finish(self) -> None:
        name = self.name
        if not self._buffers or not self._summary.count:
            raise FitError(f"{name} needs the classifier's head (prepare) and training features")
        self._refuse_negative(self._summary.lowest, "train-ID")
        dim = len(self._summary.mean())
        kept = self._kept(dim)
        if dim > _LARGEST_EXPONENT * kept:
            raise FitError(
                f"{name}: percentile {self.percentile:g} keeps {kept} of {dim} features and the "
                f"factor can reach exp({dim / kept:.0f}); lower it until one in "
                f"{_LARGEST_EXPONENT:.0f} is kept"
            )

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"percentile": self.percentile}

    def largest(self, features: Tensor) -> Tensor:
        """Features (B, D) -> the largest k of each, in any order (B, k)."""
        return torch.topk(features, self._kept(features.shape[1]), dim=1, sorted=False).values

    def factor(self, features: Tensor, largest: Tensor) -> Tensor:
        """Features (B, D) and their `largest` (B, k) -> exp(S / S_top) (B, 1)."""
        share = largest.sum(dim=1, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)
        exponent = features.sum(dim=1, keepdim=True) / share
        return torch.exp(exponent.clamp(max=features.shape[1] / largest.shape[1]))

    def _refuse_negative(self, lowest: float, source: str) -> None:
        if lowest < 0:
            raise FitError(
                f"{self.name}: a penultimate feature of {source} is {lowest:.3g}; the method "
                "divides sums of activations and needs them all zero or positive; leave it out, "
                "or let the head read rectified features"
            )

    def _kept(self, dim: int) -> int:
        return max(1, dim - round(dim * self.percentile / 100))
