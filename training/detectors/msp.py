"""Maximum softmax probability.  Source: Hendrycks & Gimpel 2017, arXiv:1610.02136.

Higher = more OOD.
"""

import torch
from torch import Tensor

from training.detectors.protocol import Detector
from training.outputs import Outputs


class Msp(Detector):
    """Log-odds against the predicted class, log((1 - p) / p), p = max softmax.

    Ranks exactly as -p does, but where float32 rounds p to 1.0 and makes ties, this does not.
    """

    reference = "arXiv:1610.02136"
    summary = "Log-odds against the predicted class: how unsure softmax is; needs no fit."

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> msp (B,)."""
        descending = torch.topk(outputs.logits, outputs.logits.shape[1], dim=1).values
        return {"msp": torch.logsumexp(descending[:, 1:] - descending[:, :1], dim=1)}
