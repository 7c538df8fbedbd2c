"""Objectosphere: outliers get a uniform softmax and features near the origin.

Source: Dhamija et al. 2018, arXiv:1811.04110.
"""

from typing import ClassVar

import torch
from torch import Tensor

from training.classifier import Classifier
from training.objectives.protocol import Batch, SoftmaxObjective


class Objectosphere(SoftmaxObjective):
    """The entropic open-set loss, and ||z|| of ID above `radius`, of outliers towards 0.

    Published: radius 50 and a weight of 1e-4 of both terms on ||z||, for the features of LeNets.
    """

    reference = "arXiv:1811.04110"
    weights: ClassVar = {
        "cross_entropy": 1.0,
        "outliers": 1.0,
        "id_radius": 1e-4,
        "outlier_radius": 1e-4,
    }
    reads_outliers = True

    def __init__(self, radius: float = 50.0, logit_adjustment: float = 0.0) -> None:
        super().__init__(logit_adjustment)
        if radius <= 0:
            raise ValueError(f"objectosphere: radius is {radius}; it must be positive")
        self.radius = radius

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        """The square under the root starts at 1e-12: a gradient at z = 0 is finite."""
        logits = batch.exposed.logits
        norms = batch.id_outputs.features.square().sum(1).clamp(min=1e-12).sqrt()
        return {
            "cross_entropy": self.classification(batch.id_outputs.logits, batch.labels),
            "outliers": (torch.logsumexp(logits, dim=1) - logits.mean(1)).mean(),
            "id_radius": (self.radius - norms).relu().square().mean(),
            "outlier_radius": batch.exposed.features.square().sum(1).mean(),
        }
