"""Two-sample Kolmogorov-Smirnov test: the largest distance of two distribution functions."""

import math

import numpy as np
from numpy.typing import NDArray

from service.drift.tails import kolmogorov_tail


def ks_statistic(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Ascending scores (n,), (m,) -> sup |F_n - F_m|."""
    both = np.concatenate([first, second])
    distance = np.searchsorted(first, both, side="right") / len(first)
    distance -= np.searchsorted(second, both, side="right") / len(second)
    return float(np.abs(distance).max())


def ks_p_value(statistic: float, first_size: int, second_size: int) -> float:
    """Probability of a distance at least as large while nothing drifts; ties make it larger.

    Stephens' correction brings the asymptotic law to small samples.
    Source: Stephens 1970, Use of the Kolmogorov-Smirnov statistics without extensive tables.
    """
    root = math.sqrt(first_size * second_size / (first_size + second_size))
    return kolmogorov_tail((root + 0.12 + 0.11 / root) * statistic)
