"""SCALE.  Source: Xu et al. 2024, arXiv:2310.00227.  Higher = more OOD."""

import torch
from torch import Tensor

from training.detectors.shaping import ActivationShaping
from training.outputs import Outputs


class Scale(ActivationShaping):
    """Energy after stretching all features of an input; nothing is pruned."""

    name = "scale"
    reference = "arXiv:2310.00227"
    summary = (
        "Energy of the logits that the head gives once all features are stretched by the weight "
        "of the small ones among them; needs features that are never negative."
    )

    def __init__(self, percentile: float = 85.0) -> None:
        super().__init__(percentile)

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D), logits (B, K) -> scale (B,), -logsumexp(W z' + b), z' = z e^(S/S_top).

        W z' = e^(S/S_top) (f - b): the head need not run again.
        """
        bias = self.fitted("bias")
        factor = self.factor(outputs.features, self.largest(outputs.features))
        return {"scale": -torch.logsumexp(factor * (outputs.logits - bias) + bias, dim=1)}
