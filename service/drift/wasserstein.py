"""Wasserstein-1 distance of window and calibration, in standard deviations of the calibration.

W1 = integral |F_n - F_m| dx.  While nothing drifts sqrt(n m / (n + m)) W1 tends to the integral
of |B(F(x))|, B a Brownian bridge: many bridges, drawn once, integrated over the scale of the
calibration scores give the alarm level.
Source: del Barrio, Gine & Matran 1999, Central limit theorems for the Wasserstein distance.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# the smallest shift of any concern, in standard deviations
SMALLEST_WASSERSTEIN = 0.05
_CELLS = 64
_BRIDGES = 20_000


def wasserstein(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Ascending scores (n,), (m,) -> W1 in units of the scores."""
    both = np.sort(np.concatenate([first, second]))
    widths = np.diff(both)
    distance = np.searchsorted(first, both[:-1], side="right") / len(first)
    distance -= np.searchsorted(second, both[:-1], side="right") / len(second)
    return float((np.abs(distance) * widths).sum())


def bridge_integrals(sorted_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ascending calibration scores (n,) -> draws of the limit of sqrt(n m / (n + m)) W1, in units
    of the scores; the same ones for the same scores.
    """
    # half way to the neighbouring shares ends the stretch on which F is near one of them
    ends = _shares(np.arange(_CELLS) + 0.5)
    widths = np.diff(np.quantile(sorted_scores, ends))
    return (_bridges() @ widths.astype(np.float32)).astype(np.float64)


def wasserstein_threshold(
    integral: float, deviation: float, window_size: int, calibration_size: int
) -> float:
    """`integral`: the quantile of bridge_integrals wanted; `deviation`: of the calibration scores.

    Alarm level in standard deviations, never below SMALLEST_WASSERSTEIN.
    """
    spread = math.sqrt(1 / window_size + 1 / calibration_size)
    return max(SMALLEST_WASSERSTEIN, integral * spread / deviation)


def _shares(steps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Steps 0.._CELLS -> shares 0..1, close together in both tails, where scores are far apart."""
    return (1 - np.cos(np.pi * steps / _CELLS)) / 2


@lru_cache(maxsize=1)
def _bridges() -> NDArray[np.float32]:
    """|B| at the inner shares: (_BRIDGES, _CELLS - 1)."""
    shares = _shares(np.arange(_CELLS + 1.0))
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((_BRIDGES, _CELLS), np.float32)
    steps *= np.sqrt(np.diff(shares)).astype(np.float32)
    motion = np.cumsum(steps, axis=1)
    motion -= motion[:, -1:] * shares[1:].astype(np.float32)
    return np.abs(motion[:, :-1])
