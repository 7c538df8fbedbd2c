"""How far a metric may be off because the test sets are finite.  Higher score = more OOD.

AUROC has a closed form (DeLong): milliseconds for 10k against 10k, no seed, which is what a
report of hundreds of cells needs.  The bootstrap serves every other metric, and as a check.
Neither covers the spread between training seeds: train more networks for that.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.evaluation.metrics import (
    ScoreCounts,
    as_scores,
    auroc,
    auroc_of,
    check_share,
    count_scores,
)

Metric = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


def auroc_interval(
    id_scores: ArrayLike, ood_scores: ArrayLike, coverage: float = 0.95
) -> tuple[float, float]:
    """DeLong's interval on the logit scale, so it stays within 0..1.

    DeLong et al. 1988, Biometrics 44; midrank form Sun & Xu 2014.  Where one set lies wholly
    above the other DeLong's variance is zero; then the exact binomial bound of the
    min(n, m) independent (ID, OOD) pairs holds.  Raises ValueError with fewer than two of
    either, NaN, or coverage outside (0, 1).
    """
    check_share(coverage, "coverage")
    counts = count_scores(id_scores, ood_scores)
    area = auroc_of(counts)
    deviation = math.sqrt(_delong_variance(counts))
    if area in (0.0, 1.0):
        pairs = min(int(counts.id_counts.sum()), int(counts.ood_counts.sum()))
        bound = ((1.0 - coverage) / 2) ** (1 / pairs)
        return (bound, 1.0) if area == 1.0 else (0.0, 1.0 - bound)
    reach = NormalDist().inv_cdf(0.5 + coverage / 2) * deviation / (area * (1.0 - area))
    centre = math.log(area / (1.0 - area))
    return _logistic(centre - reach), _logistic(centre + reach)


def bootstrap_interval(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    metric: Metric = auroc,
    *,
    coverage: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of `metric(id, ood)`, ID and OOD resampled independently.

    The same seed gives the same interval.  AUROC takes a fast path that gives the same
    numbers.  Raises ValueError on empty input, NaN, or impossible settings.
    """
    check_share(coverage, "coverage")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least one is needed")
    id_array, ood_array = as_scores(id_scores, "ID scores"), as_scores(ood_scores, "OOD scores")
    rng = np.random.default_rng(seed)
    draw = _resampled_auroc if metric is auroc else _resampled_metric(metric)
    values = draw(id_array, ood_array, rng, resamples)
    low, high = np.quantile(values, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


_Draw = Callable[
    [NDArray[np.float64], NDArray[np.float64], np.random.Generator, int], NDArray[np.float64]
]


def _resampled_metric(metric: Metric) -> _Draw:
    def draw(
        id_array: NDArray[np.float64],
        ood_array: NDArray[np.float64],
        rng: np.random.Generator,
        resamples: int,
    ) -> NDArray[np.float64]:
        values = np.empty(resamples)
        for i in range(resamples):
            resampled_id = id_array[rng.integers(id_array.size, size=id_array.size)]
            resampled_ood = ood_array[rng.integers(ood_array.size, size=ood_array.size)]
            values[i] = metric(resampled_id, resampled_ood)
        return values

    return draw


def _resampled_auroc(
    id_array: NDArray[np.float64],
    ood_array: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int,
) -> NDArray[np.float64]:
    # sort once; a resample only changes how often each distinct value occurs
    distinct, codes = np.unique(np.concatenate([id_array, ood_array]), return_inverse=True)
    id_codes, ood_codes = codes[: id_array.size], codes[id_array.size :]
    values = np.empty(resamples)
    for i in range(resamples):
        id_drawn = id_codes[rng.integers(id_codes.size, size=id_codes.size)]
        ood_drawn = ood_codes[rng.integers(ood_codes.size, size=ood_codes.size)]
        values[i] = auroc_of(
            ScoreCounts(
                np.bincount(id_drawn, minlength=distinct.size),
                np.bincount(ood_drawn, minlength=distinct.size),
            )
        )
    return values


def _delong_variance(counts: ScoreCounts) -> float:
    id_size, ood_size = int(counts.id_counts.sum()), int(counts.ood_counts.sum())
    if min(id_size, ood_size) < 2:
        raise ValueError(f"{id_size} ID and {ood_size} OOD scores: a variance needs two of each")
    area = auroc_of(counts)
    # placement: the share of the other set that a score beats, ties half
    ood_placement = (np.cumsum(counts.id_counts) - counts.id_counts / 2) / id_size
    id_placement = 1.0 - (np.cumsum(counts.ood_counts) - counts.ood_counts / 2) / ood_size
    ood_spread = float(counts.ood_counts @ (ood_placement - area) ** 2) / (ood_size - 1)
    id_spread = float(counts.id_counts @ (id_placement - area) ** 2) / (id_size - 1)
    return ood_spread / ood_size + id_spread / id_size


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
