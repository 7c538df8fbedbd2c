"""One detector of one model version: its window, its sequential alarms, its report."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from service.drift.kolmogorov_smirnov import ks_p_value, ks_statistic
from service.drift.ood_rate import wilson_interval
from service.drift.psi import bin_counts, psi, psi_threshold
from service.drift.reference import Reference
from service.drift.report import (
    SIGNIFICANCE,
    SMALLEST_WINDOW,
    Began,
    DetectorReport,
    Distance,
    KolmogorovSmirnov,
    OodRate,
    PValueHistogram,
    WindowReport,
)
from service.drift.sequential import Sequential
from service.drift.uniformity import p_value_counts, randomised_p_values, uniformity_p_value
from service.drift.wasserstein import wasserstein, wasserstein_threshold
from service.drift.window import SlidingWindow, WindowSize


class DetectorDrift:
    """Not for several threads at once."""

    def __init__(
        self,
        reference: Reference,
        size: WindowSize,
        run_length: float,
        now: float,
        because: Began = "first_seen",
    ) -> None:
        self._reference = reference
        self._size = size
        self._window = SlidingWindow(size)
        self.sequential = Sequential(reference.bets, run_length, now, because)

    @property
    def name(self) -> str:
        return self._reference.spec.name

    def add(self, scores: NDArray[np.float32], times: NDArray[np.float64]) -> None:
        """Scores (n,) and when they came, Unix seconds (n,); for the window only."""
        self._window.add(scores, times)

    def report(self, now: float) -> DetectorReport:
        scores, oldest = self._window.read(now)
        sequential = self.sequential
        return DetectorReport(
            name=self.name,
            inputs=sequential.inputs,
            began=datetime.fromtimestamp(sequential.began_at, UTC),
            began_because=sequential.began_because,
            window=None if oldest is None else self._describe(np.sort(scores), oldest),
            shiryaev_roberts=sequential.change_report(now, self._size.inputs, self._size.seconds),
            martingale=sequential.martingale_report(),
        )

    def _describe(self, scores: NDArray[np.float64], oldest: float) -> WindowReport:
        """Ascending scores (n,), n >= 1."""
        return WindowReport(
            size=len(scores),
            oldest=datetime.fromtimestamp(oldest, UTC),
            judged=len(scores) >= SMALLEST_WINDOW,
            psi=self._psi(scores),
            kolmogorov_smirnov=self._kolmogorov_smirnov(scores),
            wasserstein=self._wasserstein(scores),
            p_values=self._p_values(scores),
            ood_rate=self._ood_rate(scores),
        )

    def _psi(self, scores: NDArray[np.float64]) -> Distance | None:
        reference = self._reference
        bins = len(reference.edges) + 1
        if bins < 2:
            return None
        value = psi(bin_counts(scores, reference.edges), reference.bin_counts)
        threshold = psi_threshold(len(scores), reference.size, bins, SIGNIFICANCE)
        return _distance(value, threshold, len(scores))

    def _kolmogorov_smirnov(self, scores: NDArray[np.float64]) -> KolmogorovSmirnov:
        reference = self._reference
        statistic = ks_statistic(scores, reference.scores)
        p_value = ks_p_value(statistic, len(scores), reference.size)
        return KolmogorovSmirnov(
            statistic=statistic, p_value=p_value, beyond=_beyond(p_value, len(scores))
        )

    def _wasserstein(self, scores: NDArray[np.float64]) -> Distance | None:
        reference = self._reference
        if reference.deviation == 0:
            return None
        value = wasserstein(scores, reference.scores) / reference.deviation
        quantile = reference.wasserstein_quantile(SIGNIFICANCE)
        threshold = wasserstein_threshold(
            quantile, reference.deviation, len(scores), reference.size
        )
        return _distance(value, threshold, len(scores))

    def _p_values(self, scores: NDArray[np.float64]) -> PValueHistogram:
        reference = self._reference
        # the same window gives the same histogram however often it is asked for
        rng = np.random.default_rng(0)
        counts = p_value_counts(randomised_p_values(reference.scores, scores, rng))
        p_value = uniformity_p_value(counts, reference.size)
        return PValueHistogram(
            counts=counts.tolist(), p_value=p_value, beyond=_beyond(p_value, len(scores))
        )

    def _ood_rate(self, scores: NDArray[np.float64]) -> OodRate:
        reference = self._reference
        found = int((scores > reference.spec.threshold).sum())
        low, high = wilson_interval(found, len(scores))
        return OodRate(
            count=found,
            rate=found / len(scores),
            low=low,
            high=high,
            expected=reference.expected_ood_rate,
            expected_highest=reference.highest_ood_rate,
            beyond=len(scores) >= SMALLEST_WINDOW and low > reference.highest_ood_rate,
        )


def _beyond(p_value: float, window_size: int) -> bool:
    return window_size >= SMALLEST_WINDOW and p_value < SIGNIFICANCE


def _distance(value: float, threshold: float, window_size: int) -> Distance:
    beyond = window_size >= SMALLEST_WINDOW and value > threshold
    return Distance(value=value, threshold=threshold, beyond=beyond)
