"""Population stability index over tenths of the calibration scores.

PSI = sum over bins of (a - e) ln(a / e), a and e the shares of window and calibration.
While nothing drifts PSI / (1/n + 1/m) follows chi-square with (bins - 1) degrees of freedom, n
and m the two sizes, so the alarm level falls with the window and 0.1 means nothing by itself.
Source: Yurdakul & Naranjo 2020, Statistical properties of the population stability index.
"""

import math

import numpy as np
from numpy.typing import NDArray

from service.drift.tails import chi_square_quantile

BINS = 10
# a shift below this is of no concern, however many inputs prove it
SMALLEST_PSI = 0.02
_UNSEEN = 0.5  # added to each count, or one empty bin would make the index infinite


def bin_edges(sorted_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ascending calibration scores (n,) -> inner edges (at most 9,), each a score of it.

    Edges come from the calibration only: bins of the window would let one extreme score hide
    everything.  Tied scores leave fewer edges, and every bin holds a calibration score.
    """
    ranks = (len(sorted_scores) * np.arange(1, BINS)) // BINS
    edges = np.unique(sorted_scores[ranks])
    return edges[edges > sorted_scores[0]]


def bin_counts(scores: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Scores (n,), edges (b - 1,) -> counts (b,); a score on an edge belongs above it."""
    return np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)


def psi(window: NDArray[np.int64], calibration: NDArray[np.int64]) -> float:
    """Counts (b,) and (b,) -> the index."""
    actual = (window + _UNSEEN) / (window.sum() + _UNSEEN * len(window))
    expected = (calibration + _UNSEEN) / (calibration.sum() + _UNSEEN * len(calibration))
    return float(((actual - expected) * np.log(actual / expected)).sum())


def psi_threshold(window_size: int, calibration_size: int, bins: int, false_alarm: float) -> float:
    """What chance exceeds with probability `false_alarm` in one look, and no less than
    SMALLEST_PSI; infinite for a single bin.
    """
    if bins < 2:
        return math.inf
    spread = 1 / window_size + 1 / calibration_size
    return max(SMALLEST_PSI, chi_square_quantile(false_alarm, bins - 1) * spread)
