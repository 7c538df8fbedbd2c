"""How standardised member scores become one.  Higher = more OOD, before and after.

The p-value rules are used as scores and calibrated afterwards; their own null distributions
(chi-square, normal) assume independent members, which detectors on one network are not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.combiners.ladder import Target

Rule = Literal["mean", "max", "fisher", "stouffer", "harmonic"]
Standardisation = Literal["mad", "median"]


@dataclass(frozen=True)
class Reduction:
    """`reduce`: (B, M), weights (M,) -> (B,).  `target`: what it reads of p-values; None:
    standardised scores.  `weighted`: a weighted sum, so that weights can be learnt."""

    reduce: Callable[[Tensor, Tensor], Tensor]
    words: str
    target: Target | None = None
    weighted: bool = True

    @property
    def scale_name(self) -> str | None:
        """Of the manifest, for rules that choose their scale themselves."""
        return {None: None, "log_p": "minus log p-value", "normal": "normal score"}[self.target]


def weighted_sum(standardised: Tensor, weights: Tensor) -> Tensor:
    return standardised @ weights


def largest(standardised: Tensor, weights: Tensor) -> Tensor:
    return standardised.amax(dim=1)


def minus_log_harmonic_mean(minus_log_p: Tensor, weights: Tensor) -> Tensor:
    return torch.logsumexp(minus_log_p, dim=1) - math.log(minus_log_p.shape[1])


RULES: dict[Rule, Reduction] = {
    "mean": Reduction(weighted_sum, "The mean of standardised"),
    "max": Reduction(largest, "The largest of standardised", weighted=False),
    # Fisher's -2 sum log p, over 2 M
    "fisher": Reduction(weighted_sum, "Fisher's combination of the p-values of", "log_p"),
    # Stouffer's sum of normal scores over sqrt(M), over sqrt(M) again
    "stouffer": Reduction(weighted_sum, "Stouffer's combination of the p-values of", "normal"),
    # Wilson 2019, PNAS 116(4):1195; for small p the Cauchy combination ranks alike
    "harmonic": Reduction(
        minus_log_harmonic_mean, "The harmonic mean of the p-values of", "log_p", weighted=False
    ),
}
