"""ASH-S, activation shaping with scaling.  Source: Djurisic et al. 2022, arXiv:2209.09858.

Higher = more OOD.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from training.classifier import Classifier
from training.detectors.penultimate import linear_head
from training.detectors.shaping import ActivationShaping
from training.outputs import Outputs


class AshS(ActivationShaping):
    """Energy after pruning an input's smallest features and stretching those that stay."""

    name = "ash_s"
    reference = "arXiv:2209.09858"
    summary = (
        "Energy of the logits that the head gives for the input's largest features alone, "
        "stretched by how much was pruned; needs features that are never negative."
    )

    def __init__(self, percentile: float = 65.0) -> None:
        super().__init__(percentile)

    def prepare(self, classifier: Classifier) -> None:
        super().prepare(classifier)
        self.register_buffer("weight", linear_head(classifier)[0])

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> ash_s (B,), -logsumexp(W z' + b), z' = z_top exp(S / S_top)."""
        weight, bias = self.fitted("weight"), self.fitted("bias")
        largest = self.largest(outputs.features)
        factor = self.factor(outputs.features, largest)
        # equals of the smallest are kept too, so that ties are not left to chance
        kept = outputs.features >= largest.amin(dim=1, keepdim=True)
        shaped = torch.where(kept, outputs.features * factor, 0.0)
        return {"ash_s": -torch.logsumexp(linear(shaped, weight, bias), dim=1)}
