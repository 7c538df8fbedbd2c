"""The drift statistics as metrics, made when Prometheus asks."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.drift.report import DetectorReport
from service.drift.tracker import DriftTracker

_LABELS = ("model", "version", "detector")


class DriftCollector(Collector):
    """Labels come from the bundles only; a statistic that cannot be had has no series."""

    def __init__(self, tracker: DriftTracker) -> None:
        self._tracker = tracker

    def describe(self) -> Iterable[Metric]:
        """Without it registering would make a report."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        families = _families()
        for model in self._tracker.reports():
            for detector in model.detectors:
                bound = (model.name, model.version, detector.name)
                for name, value in _values(detector).items():
                    families[name].add_metric(bound, value)
        return families.values()


def _families() -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
    def gauge(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"oodscore_{name}", text, labels=_LABELS)

    return {
        "psi": gauge(
            "drift_psi",
            "Population stability index of the window's scores over tenths of the calibration's.",
        ),
        "ks": gauge(
            "drift_ks", "Kolmogorov-Smirnov distance of the window's scores from the calibration's."
        ),
        "wasserstein": gauge(
            "drift_wasserstein",
            "Wasserstein-1 distance of the window's scores from the calibration's, in standard "
            "deviations of the latter.",
        ),
        "evidence": gauge(
            "drift_evidence",
            "Shiryaev-Roberts procedure: evidence of more OOD; 1 is an alarm, then it is 0.",
        ),
        "window_size": gauge("drift_window_size", "Inputs in the window."),
        "run_length": gauge(
            "drift_run_length",
            "ID inputs between two false alarms of that procedure, at least, on average.",
        ),
        "alarms": CounterMetricFamily(
            "oodscore_drift_alarms", "Alarms of the Shiryaev-Roberts procedure.", labels=_LABELS
        ),
        "martingale_alarms": CounterMetricFamily(
            "oodscore_drift_martingale_alarms", "Alarms of the martingale.", labels=_LABELS
        ),
    }


def _values(detector: DetectorReport) -> dict[str, float]:
    values = {
        "evidence": detector.shiryaev_roberts.evidence,
        "alarms": float(detector.shiryaev_roberts.alarms),
        "run_length": detector.shiryaev_roberts.run_length,
        "martingale_alarms": float(detector.martingale.alarms),
        "window_size": 0.0,
    }
    if (window := detector.window) is not None:
        values["window_size"] = float(window.size)
        values["ks"] = window.kolmogorov_smirnov.statistic
        if window.psi is not None:
            values["psi"] = window.psi.value
        if window.wasserstein is not None:
            values["wasserstein"] = window.wasserstein.value
    return values
