"""Does the threshold keep its promise?  Intervals that finite calibration sets allow.

With n exchangeable calibration scores without ties, the true acceptance of the r-th smallest
one, r = ceil((n + 1) * id_acceptance), is Beta(r, n + 1 - r) distributed; the number accepted
of m test inputs is beta-binomial.  Ties can only raise the acceptance.
Source: Vovk 2012 (arXiv:1209.2673); Angelopoulos & Bates, arXiv:2107.07511, section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from service.bundle import p_values, threshold_at
from training.evaluation.metrics import as_scores, check_share


@dataclass(frozen=True)
class CalibrationRow:
    """One nominal acceptance: what test-ID did, and where it had to fall (`low`..`high`)."""

    nominal: float
    threshold: float
    realised: float
    low: float
    high: float
    inside: bool
    tied: int  # calibration scores equal to the threshold, itself not counted


@dataclass(frozen=True)
class Uniformity:
    """Kolmogorov-Smirnov distance of test-ID p-values from uniform, and what chance allows."""

    statistic: float
    critical: float
    significance: float
    uniform: bool  # statistic <= critical


def acceptance_interval(
    calibration_size: int, id_acceptance: float, coverage: float = 0.9
) -> tuple[float, float]:
    """Where the TRUE acceptance of the threshold lies with probability `coverage`.

    Raises ValueError when so few scores cannot promise `id_acceptance` at all.
    """
    rank = _rank(calibration_size, id_acceptance)
    check_share(coverage, "coverage")
    tails = [(1 - coverage) / 2, (1 + coverage) / 2]
    low, high = special.betaincinv(rank, calibration_size + 1 - rank, tails)
    return float(low), float(high)


def realised_interval(
    calibration_size: int, test_size: int, id_acceptance: float, coverage: float = 0.99
) -> tuple[float, float]:
    """Where the acceptance MEASURED on `test_size` fresh ID inputs lies, ends included, with
    probability at least `coverage`: the spread of both samples.  Raises ValueError as above.
    """
    rank = _rank(calibration_size, id_acceptance)
    check_share(coverage, "coverage")
    if test_size < 1:
        raise ValueError(f"test_size is {test_size}; at least one is needed")
    accepted = np.arange(test_size + 1)
    cumulative = np.cumsum(
        stats.betabinom.pmf(accepted, test_size, rank, calibration_size + 1 - rank)
    )
    low = np.searchsorted(cumulative, (1 - coverage) / 2)
    high = min(int(np.searchsorted(cumulative, (1 + coverage) / 2)), test_size)
    return float(low / test_size), float(high / test_size)


def calibration_check(
    calibration_scores: ArrayLike,
    test_scores: ArrayLike,
    levels: Sequence[float] = (0.9, 0.95, 0.99),
    coverage: float = 0.99,
) -> tuple[CalibrationRow, ...]:
    """Calibration-ID scores (n,), test-ID scores (m,) -> a row for each level.

    A level that n scores cannot promise has no threshold and no row.  Raises ValueError on
    empty input or NaN.
    """
    calibration = np.sort(as_scores(calibration_scores, "calibration scores"))
    test = as_scores(test_scores, "test-ID scores")
    rows: list[CalibrationRow] = []
    for level in levels:
        threshold = threshold_at(calibration, level)
        if math.isinf(threshold):
            continue
        realised = float(np.mean(test <= threshold))
        low, high = realised_interval(calibration.size, test.size, level, coverage)
        tied = int(np.sum(calibration == threshold)) - 1
        inside = low <= realised <= high
        rows.append(CalibrationRow(level, threshold, realised, low, high, inside, tied))
    return tuple(rows)


def uniformity(
    calibration_scores: ArrayLike, test_scores: ArrayLike, significance: float = 0.01
) -> Uniformity:
    """Are the conformal p-values of test-ID uniform on 1/(n+1), ..., 1?

    The critical value is Smirnov's two-sample one: both the n calibration and the m test
    scores vary.  Raises ValueError on empty input or NaN.
    """
    calibration = np.sort(as_scores(calibration_scores, "calibration scores"))
    test = as_scores(test_scores, "test-ID scores")
    check_share(significance, "significance")
    steps = calibration.size + 1
    ranks = np.rint(p_values(calibration, test) * steps).astype(np.int64)  # 1..n+1
    cumulative = np.cumsum(np.bincount(ranks, minlength=steps + 1)) / test.size
    statistic = float(np.max(np.abs(cumulative - np.arange(steps + 1) / steps)))
    critical = float(special.kolmogi(significance)) * math.sqrt(
        1 / calibration.size + 1 / test.size
    )
    return Uniformity(statistic, critical, significance, statistic <= critical)


def _rank(calibration_size: int, id_acceptance: float) -> int:
    # the r-th of the scores 1..n is r, so the bundle's own rule gives the rank
    rank = threshold_at(np.arange(1.0, calibration_size + 1), id_acceptance)
    if math.isinf(rank):
        needed = math.ceil(id_acceptance / (1 - id_acceptance) - 1e-9)
        raise ValueError(
            f"{calibration_size} calibration scores cannot promise {id_acceptance:.4g} acceptance;"
            f" at least {needed} are needed"
        )
    return int(rank)
