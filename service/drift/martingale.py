"""Conformal test martingale: a capital of 1, put on the bets little by little.

Of the capital, 1 / (1 + ln(1 + t)) is still unspent after t inputs; what input t adds goes in
equal parts on the k bets, which keep and stake all they win.  While nothing drifts the capital is a
non-negative supermartingale: the probability that it EVER reaches 1 / SIGNIFICANCE is at most
SIGNIFICANCE (Ville), for the share bets.CONFIDENCE of all calibration sets and independent inputs.
No forgetting, so it is slower than the Shiryaev-Roberts procedure.
Source: Volkhonskiy et al. 2017, arXiv:1706.03415; Vovk et al. 2021, arXiv:2102.10439.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.drift.stakes import staked_path

Array = NDArray[np.float64]
SIGNIFICANCE = 0.01
LOG_CAPITAL_OF_ALARM = -math.log(SIGNIFICANCE)


def unspent(start: int, count: int) -> Array:
    """What is not yet put on any bet after start, start + 1, ... inputs (count,)."""
    return 1 / (1 + np.log1p(np.arange(start, start + count, dtype=np.float64)))


class Martingale:
    """`stakes` (k,): what the bets hold; `inputs`: how many it has seen since it began."""

    def __init__(self, bets: int) -> None:
        self.stakes = np.zeros(bets)
        self.inputs = 0

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital; 0 at the start."""
        return math.log(float(self.stakes.sum() + unspent(self.inputs, 1)[0]))

    def update(self, gains: Array) -> list[int]:
        """Log payoffs (k, n) -> places of the inputs at which it reached 1 / SIGNIFICANCE.

        From there it begins again with a capital of 1, and the inputs of the batch that follow
        are passed over.
        """
        return update_martingales([self], gains[None])[0]


def unspent_of(martingales: Sequence[Martingale], size: int) -> Array:
    """What each has not put on any bet, before each of `size` inputs to come (d, size)."""
    counts = [one.inputs for one in martingales]
    by_count = {count: unspent(count, size) for count in set(counts)}
    return np.stack([by_count[count] for count in counts])


def update_martingales(martingales: Sequence[Martingale], gains: Array) -> list[list[int]]:
    """Log payoffs (d, k, n) of d martingales: as Martingale.update of each."""
    kept = unspent_of(martingales, gains.shape[-1] + 1)
    bought = (kept[:, :-1] - kept[:, 1:]) / gains.shape[1]
    # a certain drift may exceed any number before the batch ends; the crossing stands anyway
    with np.errstate(over="ignore"):
        path = staked_path(np.stack([one.stakes for one in martingales]), gains, bought)
        over = path.sum(axis=1) + kept[:, 1:] >= 1 / SIGNIFICANCE
    reached: list[list[int]] = []
    for one, stakes, crossed in zip(martingales, path, over, strict=True):
        if crossed.any():
            one.stakes = np.zeros_like(one.stakes)
            one.inputs = 0
            reached.append([int(crossed.argmax())])
        else:
            one.stakes = stakes[:, -1].copy()
            one.inputs += gains.shape[-1]
            reached.append([])
    return reached
