"""Predictive entropy.  Source: Chan et al. 2021, arXiv:2012.06575.  Higher = more OOD."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from training.detectors.protocol import Detector
from training.detectors.vectors import gaps_to_largest
from training.outputs import Outputs

# Below it softplus(x) / e^x is 1 up to 2e-4, and float32 cannot tell 1 + e^x from 1 much further.
_FLAT = -8.0


class Entropy(Detector):
    """log H[p], p = softmax: ranks exactly as H, without float32's ties at H = 0."""

    reference = "arXiv:2012.06575"
    summary = (
        "Logarithm of the entropy of softmax, which also grows between two known classes; "
        "needs no fit."
    )

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> entropy (B,), log of sum p |log p|.

        With gaps g_j <= 0 to the top class, r = log sum e^g_j and s = softplus(r) = -log p_top:
        H = e^-s (s + sum e^g_j (s - g_j)) = e^-s sum e^g_j (s / e^r + s - g_j), all terms positive,
        so that its logarithm is accurate however small H is.
        """
        gaps = gaps_to_largest(outputs.logits)
        rest = torch.logsumexp(gaps, dim=1, keepdim=True)
        surprise = softplus(rest)
        bounded = rest.clamp(min=_FLAT)
        share = softplus(bounded) / torch.exp(bounded)
        terms = gaps + torch.log(share + surprise - gaps)
        return {"entropy": torch.logsumexp(terms, dim=1) - surprise[:, 0]}
