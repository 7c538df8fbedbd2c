"""Threshold and p-value from the sorted scores of held-out ID data.

Split conformal prediction: for an input exchangeable with the n calibration inputs,
P(flagged) <= alpha, where alpha = 1 - id_acceptance.  "p <= alpha" is exactly
"score > threshold".  Source: Vovk et al. 2005; Bates et al. 2023, arXiv:2104.08279.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Places = Callable[[NDArray[np.floating]], NDArray[np.intp]]


def threshold_at(sorted_scores: NDArray[np.floating], id_acceptance: float) -> float:
    """Sorted calibration scores (n,) -> the threshold that keeps `id_acceptance` of ID.

    The r-th smallest score, r = ceil((n + 1) * id_acceptance); infinity when r > n, that is
    when n is too small to promise so much.  Raises ValueError outside 0 < id_acceptance < 1.
    """
    if not 0 < id_acceptance < 1:
        raise ValueError(f"id_acceptance is {id_acceptance}; it must lie between 0 and 1")
    size = len(sorted_scores)
    # (n + 1) * 0.95 may land a rounding error above a whole number
    rank = max(1, math.ceil((size + 1) * id_acceptance - 1e-9))
    return math.inf if rank > size else float(sorted_scores[rank - 1])


def p_values(
    sorted_scores: NDArray[np.floating], scores: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Scores (m,) -> conformal p-values (m,): (1 + #{calibration >= score}) / (n + 1)."""
    return PValueColumns([sorted_scores])(scores[None])[0]


class PValueColumns:
    """`p_values` of D detectors at once, by their sorted calibration scores, each (n_d,)."""

    def __init__(self, sorted_scores: Sequence[NDArray[np.floating]]) -> None:
        # the method: numpy's function of that name takes thrice as long for a few scores
        self._places: list[_Places] = [known.searchsorted for known in sorted_scores]
        self._most = np.array([[len(known) + 1.0] for known in sorted_scores])

    def __call__(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """(D, m) -> (D, m)."""
        below = [places(given) for places, given in zip(self._places, scores, strict=True)]
        return (self._most - np.array(below)) / self._most


class ClassReference(NamedTuple):
    """What an input that is predicted as one class is held against."""

    scores: NDArray[np.floating]  # ascending
    threshold: float


def class_references(
    sorted_scores: NDArray[np.floating],
    predicted: NDArray[np.integer],
    classes: int,
    id_acceptance: float,
) -> tuple[ClassReference, ...]:
    """Sorted calibration scores (n,), the class predicted for each (n,) -> a reference a class.

    Mondrian conformal prediction (Vovk et al. 2005): the false-alarm rate then holds within every
    predicted class.  A class with too few scores for a finite threshold gets all of them.
    """
    pooled = ClassReference(sorted_scores, threshold_at(sorted_scores, id_acceptance))
    found: list[ClassReference] = []
    for label in range(classes):
        own = sorted_scores[predicted == label]
        threshold = threshold_at(own, id_acceptance)
        found.append(pooled if math.isinf(threshold) else ClassReference(own, threshold))
    return tuple(found)
