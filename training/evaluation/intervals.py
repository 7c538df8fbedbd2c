"""How far a metric may be off because the test sets are finite.  Higher score = more OOD.

Percentile bootstrap; for AUROC a fast path, 0.2 s for 1,000 resamples of 10k against 10k.
It does not cover the spread between training seeds: train more networks for that, and take
`student_interval` of their metrics.  Where one set
lies wholly above the other every resample gives the same area, and the interval has no width.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from training.evaluation.metrics import (
    ScoreCounts,
    as_scores,
    auroc,
    auroc_of,
    check_share,
)

Metric = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


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


def student_interval(shares: Sequence[float], coverage: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of shares in 0..1, one a seed, cut to 0..1.

    Raises ValueError of fewer than two.
    """
    check_share(coverage, "coverage")
    if len(shares) < 2:
        raise ValueError(f"{len(shares)} seeds have no spread; at least two are needed")
    spread = float(np.std(shares, ddof=1)) / len(shares) ** 0.5
    half = float(stats.t.ppf((1 + coverage) / 2, len(shares) - 1)) * spread
    mean = float(np.mean(shares))
    return max(0.0, mean - half), min(1.0, mean + half)


def wilson_interval(count: int, total: int, coverage: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of the share `count` / `total`, which stays within 0..1.

    Wilson 1927, JASA 22.  Raises ValueError without inputs.
    """
    check_share(coverage, "coverage")
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"{count} of {total} is no share")
    found = stats.binomtest(count, total).proportion_ci(coverage, method="wilson")
    return float(found.low), float(found.high)


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
