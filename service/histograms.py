"""Sorted calibration scores -> a few bars, for a picture.  Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 40
_TAIL = 0.005  # at either end: one extreme score would squeeze all others into one bar


@dataclass(frozen=True)
class Histogram:
    """`counts` of equally wide bins from `low` to `high`, and what lies outside of them."""

    low: float
    high: float
    counts: Sequence[int]
    below: int
    above: int


def histogram_of(sorted_scores: NDArray[np.floating], bins: int = BINS) -> Histogram:
    """Ascending scores (n,), n >= 1.  A bin holds its lower edge; the last one both."""
    size = len(sorted_scores)
    tail = int(size * _TAIL)
    low, high = float(sorted_scores[tail]), float(sorted_scores[size - 1 - tail])
    if low == high:  # one bar in the middle
        margin = max(abs(low), 1.0) * 1e-3
        low, high = low - margin, high + margin
    scores = sorted_scores.astype(np.float64)
    edges = np.linspace(low, high, bins + 1)
    places = np.searchsorted(scores, edges[:-1], side="left").tolist()
    end = int(np.searchsorted(scores, high, side="right"))
    counts = [after - before for before, after in zip(places, [*places[1:], end], strict=True)]
    return Histogram(low, high, counts, below=places[0], above=size - end)
