"""Maximum logit.  Source: Hendrycks et al. 2022, arXiv:1911.11132.  Higher = more OOD."""

from torch import Tensor

from training.detectors.protocol import Detector
from training.outputs import Outputs


class MaxLogit(Detector):
    reference = "arXiv:1911.11132"
    summary = "Minus the largest logit: softmax confidence with its scale kept; needs no fit."

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> max_logit (B,), -max f."""
        return {"max_logit": -outputs.logits.amax(dim=1)}
