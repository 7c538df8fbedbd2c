"""Logit normalisation: cross-entropy of logits of one length.

Source: Wei et al. 2022, arXiv:2205.09310.  Needs no outliers.
"""

from typing import ClassVar

from torch import Tensor

from training.classifier import Classifier
from training.objectives.protocol import Batch, SoftmaxObjective

_SMALLEST = 1e-7  # of a length, as in the published code


class LogitNorm(SoftmaxObjective):
    """Softmax of f / (temperature ||f||) in training; scores and labels read f itself.

    Published temperature: 0.04 on CIFAR-10, chosen on a validation set.
    """

    reference = "arXiv:2205.09310"
    weights: ClassVar = {"cross_entropy": 1.0}

    def __init__(self, temperature: float = 0.04, logit_adjustment: float = 0.0) -> None:
        super().__init__(logit_adjustment)
        if temperature <= 0:
            raise ValueError(f"logit_norm: temperature is {temperature}; it must be positive")
        self.temperature = temperature

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        logits = batch.id_outputs.logits
        # the square is clamped, not the root: all logits 0 have a finite gradient
        length = logits.square().sum(1, keepdim=True).clamp(min=_SMALLEST**2).sqrt()
        return {
            "cross_entropy": self.classification(logits / (self.temperature * length), batch.labels)
        }
