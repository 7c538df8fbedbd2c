"""Predictive entropy.  Source: Chan et al. 2021, arXiv:2012.06575.  Higher = more OOD."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from training.detectors.protocol import Detector
from training.detectors.vectors import gaps_to_largest
from training.outputs import Outputs

_SMALL = -4.0


class Entropy(Detector):
    """log H[p], p = softmax: ranks exactly as H, without float32's ties at H = 0."""

    reference = "arXiv:2012.06575"
    summary = (
        "Logarithm of the entropy of softmax, which also grows between two known classes; "
        "needs no fit."
    )

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> entropy (B,), log of sum p |log p|."""
        gaps = gaps_to_largest(outputs.logits)
        rest = torch.logsumexp(gaps, dim=1, keepdim=True)  # log-odds against the top class
        surprise = softplus(rest)  # -log p of the top class
        others = gaps - surprise
        terms = torch.cat(
            [_log_softplus(rest, surprise) - surprise, others + torch.log(-others)], dim=1
        )
        return {"entropy": torch.logsumexp(terms, dim=1)}


def _log_softplus(values: Tensor, softplus_of_values: Tensor) -> Tensor:
    """log log(1 + e^x); below -4 its series, where 1 + e^x rounds e^x away."""
    power = torch.exp(values)
    series = values + power * (power * (5 / 24) - 0.5)
    return torch.where(values < _SMALL, series, torch.log(softplus_of_values))
