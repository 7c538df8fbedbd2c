"""Piecewise linear maps from a member's score to a p-value's scale, one map a member.

A p-value is 1 minus the share of held-out ID scores below; a map goes straight to what is added
up: -log p, or the normal score z with P(Z > z) = p.  Between the 5 % and the 95 % quantile of
the ID scores it is the empirical one, at a knot each per cent.  Beyond the 95 % quantile the
few largest ID scores cannot tell one outlier from a farther one, so the map goes on as a
straight line, whose slope gives the ID scores up there the mean excess that an exponential
(-log p) or normal (z) tail has: the farther, the larger, without ties.  Below the 5 % quantile
-log p stays what it is there, z goes on as a straight line too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

Target = Literal["log_p", "normal"]
LEVELS = np.arange(5, 96) / 100  # shares of ID below the knots
KNOTS = len(LEVELS)
_TAIL = float(norm.ppf(LEVELS[-1]))
# mean of x - t over x > t, at the outermost knots: exponential, standard normal
_MEAN_EXCESS: dict[Target, float] = {
    "log_p": 1.0,
    "normal": float(norm.pdf(_TAIL) / norm.sf(_TAIL) - _TAIL),
}


@dataclass(frozen=True)
class Ladder:
    """s -> base + lower min(s - k_0, 0) + sum_j rates_j clamp(s - k_j, 0, widths_j).

    base, lower: (M,); knots, widths, rates: (M, KNOTS), the last width infinite.
    """

    base: Tensor
    lower: Tensor
    knots: Tensor
    widths: Tensor
    rates: Tensor

    @classmethod
    def unfitted(cls, members: int) -> "Ladder":
        """Maps every score to NaN."""
        column, table = torch.full((members,), torch.nan), torch.full((members, KNOTS), torch.nan)
        return cls(column, column.clone(), table, table.clone(), table.clone())

    @classmethod
    def fitted(cls, id_scores: Mapping[str, NDArray[np.float64]], target: Target) -> "Ladder":
        """Member -> held-out ID scores (n,); ValueError names a member whose scores do not vary."""
        steps = [_steps(member, values, target) for member, values in id_scores.items()]
        parts = [np.stack(part).astype(np.float32) for part in zip(*steps, strict=True)]
        return cls(*(torch.from_numpy(part) for part in parts))

    def __call__(self, scores: Tensor) -> Tensor:
        """(B, M) -> (B, M)."""
        above = (scores[:, :, None] - self.knots).clamp(min=0)
        risen = (torch.minimum(above, self.widths) * self.rates).sum(dim=2)
        return self.base + self.lower * (scores - self.knots[:, 0]).clamp(max=0) + risen


def _steps(
    member: str, values: NDArray[np.float64], target: Target
) -> tuple[NDArray[np.float64], ...]:
    """base (), lower (), knots, widths, rates (KNOTS,) of one member."""
    # where ID scores repeat, p counts those that are as large: the lowest level stays
    knots, levels = np.unique(np.quantile(values, LEVELS), return_index=True)
    chances = LEVELS[levels]
    heights = -np.log1p(-chances) if target == "log_p" else norm.ppf(chances)
    if len(knots) < 2:
        raise ValueError(f"ID scores of {member} do not vary")
    excess, shortfall = values - knots[-1], knots[0] - values
    if not (excess > 0).any():
        raise ValueError(f"more than 5 % of the ID scores of {member} share the largest value")
    upper = _MEAN_EXCESS[target] / excess[excess > 0].mean()
    lower = 0.0
    if target == "normal" and (shortfall > 0).any():
        lower = _MEAN_EXCESS[target] / shortfall[shortfall > 0].mean()
    padding = np.full(KNOTS - len(knots), knots[-1])
    nothing = np.zeros(len(padding))
    widths = np.diff(knots)
    return (
        np.asarray(heights[0]),
        np.asarray(lower),
        np.concatenate([knots, padding]),
        np.concatenate([widths, nothing, [np.inf]]),
        np.concatenate([np.diff(heights) / widths, nothing, [upper]]),
    )
