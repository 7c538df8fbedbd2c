"""Outlier exposure: outliers are taught a fixed softmax.

Source: Hendrycks et al. 2018, arXiv:1812.04606.
"""

from typing import ClassVar

import torch
from torch import Tensor

from training.classifier import Classifier
from training.objectives.protocol import Batch, SoftmaxObjective


class OutlierExposure(SoftmaxObjective):
    """`target` of the outliers: `uniform`, as published, or `prior`, the frequencies of train-ID.

    Where ID and outliers overlap, the uniform target drags the predictions on ID towards uniform;
    the prior does not, but gathers outliers at the frequent classes.
    """

    reference = "arXiv:1812.04606"
    weights: ClassVar = {"cross_entropy": 1.0, "outliers": 0.5}
    reads_outliers = True

    def __init__(self, target: str = "uniform", logit_adjustment: float = 0.0) -> None:
        super().__init__(logit_adjustment)
        if target not in ("uniform", "prior"):
            raise ValueError(f"outlier_exposure: target {target!r}; choose uniform or prior")
        self.target = target

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        """outliers: cross-entropy to the target, LSE(f) - sum_c tau_c f_c."""
        logits = batch.exposed.logits
        wanted = logits.mean(1) if self.target == "uniform" else logits @ self.class_prior
        return {
            "cross_entropy": self.classification(batch.id_outputs.logits, batch.labels),
            "outliers": (torch.logsumexp(logits, dim=1) - wanted).mean(),
        }
