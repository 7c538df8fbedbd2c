"""Histogram of conformal p-values: flat while nothing drifts."""

import numpy as np
from numpy.typing import NDArray

from service.drift.tails import chi_square_tail

BINS = 20


def randomised_p_values(
    sorted_scores: NDArray[np.float64], scores: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Scores (m,) -> p-values (m,) in (0, 1], exactly uniform for inputs exchangeable with the
    calibration: (#{calibration > score} + U (1 + #{calibration = score})) / (n + 1).

    Source: Vovk et al. 2005, Algorithmic Learning in a Random World, smoothed p-values.
    """
    size = len(sorted_scores)
    below = np.searchsorted(sorted_scores, scores, side="left")
    not_above = np.searchsorted(sorted_scores, scores, side="right")
    # 1 - U lies in (0, 1]
    ties = (1.0 - rng.random(len(scores))) * (1 + not_above - below)
    return (size - not_above + ties) / (size + 1)


def p_value_counts(p_values: NDArray[np.float64]) -> NDArray[np.int64]:
    """p-values (m,) -> counts (20,) of equal parts of (0, 1]."""
    return np.bincount(
        np.minimum(BINS - 1, np.ceil(p_values * BINS).astype(np.int64) - 1), minlength=BINS
    )


def uniformity_p_value(counts: NDArray[np.int64], calibration_size: int) -> float:
    """Counts (b,) -> probability of a histogram at least as uneven while nothing drifts.

    Pearson's chi-square, divided by 1 + m/n: the calibration is a sample too (m of the window,
    n of the calibration).
    """
    size = int(counts.sum())
    expected = size / len(counts)
    uneven = float(((counts - expected) ** 2).sum()) / expected
    return chi_square_tail(uneven / (1 + size / calibration_size), len(counts) - 1)
