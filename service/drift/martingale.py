"""Conformal test martingale: a capital of 1, put on the bets little by little.

Of the capital, 1 / (1 + ln(1 + t)) is still unspent after t inputs; what input t adds goes in
equal parts on the k bets, which keep and stake all they win.  While nothing drifts the capital is a
non-negative supermartingale: the probability that it EVER reaches 1 / SIGNIFICANCE is at most
SIGNIFICANCE (Ville), for the share bets.CONFIDENCE of all calibration sets and independent inputs.
No forgetting, so it is slower than CUSUM.
Source: Volkhonskiy et al. 2017, arXiv:1706.03415; Vovk et al. 2021, arXiv:2102.10439.
"""

import math

import numpy as np
from numpy.typing import NDArray

SIGNIFICANCE = 0.01
LOG_CAPITAL_OF_ALARM = -math.log(SIGNIFICANCE)
_LARGEST_EXPONENT = 600.0


def unspent(start: int, count: int) -> NDArray[np.float64]:
    """What is not yet put on any bet after start, start + 1, ... inputs (count,)."""
    return 1 / (1 + np.log1p(np.arange(start, start + count, dtype=np.float64)))


def staked_path(
    start: NDArray[np.float64], gains: NDArray[np.float64], added: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Stakes (k,) before, log payoffs (k, n), capital (n,) each bet gets before each input ->
    stakes after each input (k, n): A_t = (A_(t-1) + added_t) payoff_t.
    """
    logs = np.cumsum(gains, axis=1)
    size = gains.shape[1]
    if size > 1 and max(float(logs.max()), -float(logs.min())) > _LARGEST_EXPONENT:
        half = size // 2
        first = staked_path(start, gains[:, :half], added[:half])
        second = staked_path(first[:, -1], gains[:, half:], added[half:])
        return np.concatenate([first, second], axis=1)
    products = np.exp(logs)
    put_in = np.empty_like(products)  # measured in what each input's product began with
    put_in[:, 0] = start + added[0]
    np.divide(added[1:], products[:, :-1], out=put_in[:, 1:])
    products *= np.cumsum(put_in, axis=1)
    return products


class Martingale:
    """`stakes` (k,): what the bets hold; `inputs`: how many it has seen since it began."""

    def __init__(self, bets: int) -> None:
        self.stakes = np.zeros(bets)
        self.inputs = 0

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital; 0 at the start."""
        return math.log(float(self.stakes.sum() + unspent(self.inputs, 1)[0]))

    def update(self, gains: NDArray[np.float64]) -> list[int]:
        """Log payoffs (k, n) -> places of the inputs at which it reached 1 / SIGNIFICANCE.

        From there it begins again with a capital of 1, and the inputs of the batch that follow
        are passed over.
        """
        kept = unspent(self.inputs, gains.shape[1] + 1)
        # a certain drift may exceed any number before the batch ends; the crossing stands anyway
        with np.errstate(over="ignore"):
            path = staked_path(self.stakes, gains, (kept[:-1] - kept[1:]) / len(self.stakes))
            over = path.sum(axis=0) + kept[1:] >= 1 / SIGNIFICANCE
        if over.any():
            self.stakes = np.zeros_like(self.stakes)
            self.inputs = 0
            return [int(over.argmax())]
        self.stakes = path[:, -1].copy()
        self.inputs += gains.shape[1]
        return []
