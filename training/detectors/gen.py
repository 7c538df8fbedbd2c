"""Generalised entropy.  Source: Liu et al., CVPR 2023; settings of arXiv:2306.09301.

Higher = more OOD.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from training.detectors.protocol import Detector
from training.detectors.vectors import gaps_to_largest
from training.outputs import Outputs


class Gen(Detector):
    """log of the sum over the `top` largest p of (p (1 - p))^gamma, p = softmax.

    The logarithm ranks as the sum itself and keeps what float32 would round to 0 or 1.
    """

    # the method has no preprint of its own: the benchmark that took it up, with these defaults
    reference = "arXiv:2306.09301"
    summary = (
        "Logarithm of the generalised entropy of softmax, which a small power makes sensitive "
        "to the unlikely classes; needs no fit."
    )

    def __init__(self, gamma: float = 0.1, top: int = 100) -> None:
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gen: gamma is {gamma}; it must be positive")
        if top < 2:
            raise ValueError(f"gen: top is {top}; it takes at least two classes")
        self.gamma = gamma
        self.top = top

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"gamma": self.gamma, "top": self.top}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> gen (B,)."""
        gaps = gaps_to_largest(outputs.logits)
        rest = torch.logsumexp(gaps, dim=1, keepdim=True)  # log-odds against the top class
        surprise = softplus(rest)  # -log p of the top class
        others = gaps[:, : self.top - 1] - surprise
        # p (1 - p): of the top class its odds times p^2, of every other p <= 1/2 as it stands
        terms = torch.cat([rest - 2 * surprise, others + torch.log(1 - torch.exp(others))], dim=1)
        return {"gen": torch.logsumexp(self.gamma * terms, dim=1)}
