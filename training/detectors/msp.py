"""Maximum softmax probability.  Source: Hendrycks & Gimpel 2017, arXiv:1610.02136.

Higher = more OOD.
"""

import torch
from torch import Tensor

from training.detectors.protocol import Detector
from training.detectors.vectors import gaps_to_largest
from training.outputs import Outputs


class Msp(Detector):
    """Log-odds against the predicted class, log((1 - p) / p), p = max softmax.

    Ranks exactly as -p does, but where float32 rounds p to 1.0 and makes ties, this does not.
    """

    reference = "arXiv:1610.02136"
    summary = "Log-odds against the predicted class: how unsure softmax is; needs no fit."

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> msp (B,)."""
        return {"msp": torch.logsumexp(gaps_to_largest(outputs.logits), dim=1)}
