"""Predicted labels of the window against those of the calibration inputs."""

import numpy as np
from numpy.typing import NDArray

from service.drift.tails import chi_square_quantile, chi_square_tail


def homogeneity(window: NDArray[np.int64], calibration: NDArray[np.int64]) -> tuple[float, float]:
    """Counts (k,), (k,) -> Pearson's chi-square of two samples and its p-value.

    Classes neither sample holds carry no information and no degree of freedom.
    """
    table = np.stack([window, calibration]).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    degrees = table.shape[1] - 1
    return statistic, chi_square_tail(statistic, degrees) if degrees else 1.0


def jensen_shannon(window: NDArray[np.int64], calibration: NDArray[np.int64]) -> float:
    """Counts (k,), (k,) -> Jensen-Shannon divergence in bits: 0 the same mix, 1 disjoint.

    Source: Lin 1991, Divergence measures based on the Shannon entropy.
    """
    first, second = window / window.sum(), calibration / calibration.sum()
    middle = (first + second) / 2
    return (_relative_entropy(first, middle) + _relative_entropy(second, middle)) / 2


def jensen_shannon_threshold(
    window_size: int, calibration_size: int, classes: int, false_alarm: float
) -> float:
    """What chance exceeds with probability `false_alarm`: 8 ln 2 JS / (1/n + 1/m) is about
    chi-square with (classes - 1) degrees of freedom while nothing drifts.
    """
    spread = 1 / window_size + 1 / calibration_size
    return chi_square_quantile(false_alarm, classes - 1) * spread / (8 * float(np.log(2)))


def residuals(window: NDArray[np.int64], calibration: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts (k,), (k,) -> how many standard errors each label's share lies from the calibration's,
    (k,); 0 for labels neither sample holds.
    """
    n, m = int(window.sum()), int(calibration.sum())
    pooled = (window + calibration) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    difference = window / n - calibration / m
    return np.divide(difference, error, out=np.zeros(len(window)), where=error > 0)


def _relative_entropy(shares: NDArray[np.float64], against: NDArray[np.float64]) -> float:
    held = shares > 0
    return float((shares[held] * np.log2(shares[held] / against[held])).sum())
