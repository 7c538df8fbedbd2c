"""Scores of several networks' votes on the same inputs.  Higher = more OOD.

Predictive entropy and mutual information: Gal & Ghahramani 2016, arXiv:1506.02142, and
Lakshminarayanan et al. 2017, arXiv:1612.01474.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """The mean of several softmax distributions and what can be read off it.

    Probabilities stay logarithms, in float64: of a sure input all but one vanish in float32,
    and the mutual information is then a small difference of large rounding errors.
    """

    log_votes: Tensor  # (M, B, K)
    log_mean: Tensor  # (B, K)

    @classmethod
    def of(cls, logits: Tensor) -> "Mixture":
        """Logits (M, B, K) of M networks; their probabilities are averaged, not the logits."""
        votes = logits.double().log_softmax(2)
        # the largest vote stays outside the logarithm, which thus never meets a zero
        top = votes.amax(0)
        return cls(votes, top + (votes - top).exp().mean(0).log())

    def entropy(self) -> Tensor:
        """Of the mean distribution, in nats: (B,), float32."""
        return -(self.log_mean.exp() * self.log_mean).sum(1).float()

    def mutual_information(self) -> Tensor:
        """Entropy of the mean minus the mean entropy, in nats: (B,), float32.

        Written as the mean divergence of the votes from their mean, which cancels less.
        """
        gaps = (self.log_votes.exp() * (self.log_votes - self.log_mean)).sum(2)
        return gaps.mean(0).clamp(min=0).float()

    def log_odds(self) -> Tensor:
        """log((1 - p) / p) of the mean distribution's largest probability p: (B,), float32."""
        descending = torch.topk(self.log_mean, self.log_mean.shape[1], dim=1).values
        return torch.logsumexp(descending[:, 1:] - descending[:, :1], dim=1).float()
