"""Softmax cross-entropy: the plain classifier."""

from typing import ClassVar

from torch import Tensor

from training.classifier import Classifier
from training.objectives.protocol import Batch, SoftmaxObjective


class CrossEntropy(SoftmaxObjective):
    reference = "arXiv:1610.02136"
    weights: ClassVar = {"cross_entropy": 1.0}

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        logits = batch.id_outputs.logits
        return {"cross_entropy": self.classification(logits, batch.labels)}
