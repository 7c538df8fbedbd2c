"""Every metric family, prefix `oodscore_`.  Labels are bounded: names come from bundles,
routes and error tables, never from a request."""

import collections
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.decision import DECILES, Verdict, deciles_of, ood_up_to

RELEASE_REASONS = ("idle", "free", "full", "alone")
STAGES = ("queue", "decode", "preprocess", "infer")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# fine near 0, where the OOD inputs lie
_P_VALUES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1)
_P_VALUE_EDGES = np.array(_P_VALUES)
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class DetectorFacts:
    """What a served detector promises: calibration scores behind it, OOD rate on ID data."""

    name: str
    calibration_size: int
    expected_ood_rate: float


@dataclass(frozen=True)
class ModelFacts:
    """One served bundle version, as the gauges describe it."""

    name: str
    version: str
    digest: str
    provider: str
    variant: str
    created_unix_seconds: float
    labels: Sequence[str]
    # how often each label was predicted for the calibration inputs; None: not recorded
    label_counts: Sequence[int] | None
    detectors: Sequence[DetectorFacts]
    primary: str


class CountedHistogram(Histogram):
    """A histogram that takes in many values at once, already counted by bucket."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """How many values fell into each bucket, the last one unbounded, and their sum."""
        buckets = cast(list[Any], self._buckets)  # pyright: ignore[reportUnknownMemberType]
        for bucket, count in zip(buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        cast(Any, self._sum).inc(total)


class DetectorMetrics:
    """Bound children of one detector of one model version."""

    def __init__(
        self, metrics: "Metrics", model: str, version: str, detector: DetectorFacts
    ) -> None:
        bound = (model, version, detector.name)
        self._ood = metrics.detector_ood.labels(*bound)
        self._p_value = metrics.p_value.labels(*bound)
        self._deciles = [
            metrics.score_decile.labels(*bound, str(decile)) for decile in range(DECILES)
        ]
        self._ood_up_to = ood_up_to(1 - detector.expected_ood_rate)

    def add(self, p_values: NDArray[np.float64]) -> None:
        """Of n inputs.  OOD counts at the bundle's acceptance, whatever a caller asked for, so
        that the rate can be held against expected_ood_rate."""
        places = _P_VALUE_EDGES.searchsorted(p_values, side="left")
        counts = np.bincount(places, minlength=len(_P_VALUES) + 1)
        self._p_value.add(counts.tolist(), float(p_values.sum()))
        deciles = np.bincount(deciles_of(p_values), minlength=DECILES)
        for child, count in zip(self._deciles, deciles.tolist(), strict=True):
            if count:
                child.inc(count)
        if ood := int((p_values <= self._ood_up_to).sum()):
            self._ood.inc(ood)


class ModelMetrics:
    """Bound children of one model version, so that a request looks up no labels.

    p-values wait until many of them can be counted at once: one by one, those of forty detectors
    would cost more than all else a small request needs.  To be shared by threads.
    """

    def __init__(self, metrics: "Metrics", facts: ModelFacts) -> None:
        bound = (facts.name, facts.version)
        self.batch_size = metrics.batch_size.labels(facts.name)
        self.releases = {
            reason: metrics.batch_release.labels(facts.name, reason) for reason in RELEASE_REASONS
        }
        self.decisions = {d: metrics.decisions.labels(*bound, d) for d in ("ID", "OOD")}
        self.truncated = metrics.truncated_texts.labels(*bound)
        self.labels = [metrics.predicted_label.labels(*bound, label) for label in facts.labels]
        self.detectors: Mapping[str, DetectorMetrics] = {
            d.name: DetectorMetrics(metrics, *bound, d) for d in facts.detectors
        }
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, ...], list[Sequence[float]]] = {}

    def count(self, verdicts: Sequence[Verdict]) -> None:
        """Answers of one request, of one plan."""
        for decision, times in collections.Counter(v.deciding.decision for v in verdicts).items():
            self.decisions[decision].inc(times)
        for label, times in collections.Counter(v.label_index for v in verdicts).items():
            self.labels[label].inc(times)
        if truncated := sum(bool(v.truncated) for v in verdicts):
            self.truncated.inc(truncated)
        if verdicts:
            p_values = [verdict.detectors.p_values for verdict in verdicts]
            self.add_p_values(verdicts[0].detectors.names, p_values)

    def add_p_values(self, detectors: tuple[str, ...], p_values: Sequence[Sequence[float]]) -> None:
        """Of each input, in the order of the detectors."""
        with self._lock:
            rows = self._waiting.setdefault(detectors, [])
            rows += p_values
            if len(rows) < _ROWS_AT_ONCE:
                return
            del self._waiting[detectors]
        self._take_in(detectors, rows)

    def flush(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for detectors, rows in waiting.items():
            self._take_in(detectors, rows)

    def _take_in(self, detectors: tuple[str, ...], rows: Sequence[Sequence[float]]) -> None:
        for name, column in zip(detectors, np.array(rows).T, strict=True):
            self.detectors[name].add(column)


class _Flush(Collector):
    """Asked before all other families: what waits in a model's list is counted then."""

    def __init__(self, models: "weakref.WeakSet[ModelMetrics]") -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for model in list(self._models):
            model.flush()
        return ()


class Metrics:
    """The families; each test makes its own registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()
        self.registry = registry
        self._models: weakref.WeakSet[ModelMetrics] = weakref.WeakSet()
        registry.register(_Flush(self._models))

        def counter(name: str, text: str, labels: Iterable[str]) -> Counter:
            return Counter(f"oodscore_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(f"oodscore_{name}", text, labels, registry=registry)

        def histogram(
            name: str, text: str, labels: Iterable[str], buckets: Sequence[float]
        ) -> Histogram:
            return Histogram(f"oodscore_{name}", text, labels, registry=registry, buckets=buckets)

        model = ("model", "version")
        detector = (*model, "detector")
        self.requests = counter(
            "requests", "HTTP requests by route template and status.", ("route", "status")
        )
        self.decisions = counter("decisions", "Answers given.", (*model, "decision"))
        self.detector_ood = counter(
            "detector_ood",
            "Inputs this detector finds OOD at the bundle's own acceptance rate.",
            detector,
        )
        self.predicted_label = counter("predicted_label", "Labels answered.", (*model, "label"))
        self.truncated_texts = counter(
            "truncated_texts", "Texts of which only the beginning was read.", model
        )
        self.score_decile = counter(
            "score_decile",
            "Inputs by tenth of the calibration scores: 0 most ID-like, 9 least; "
            "equally filled while nothing drifts.",
            (*detector, "decile"),
        )
        self.rejected_inputs = counter(
            "rejected_inputs", "Inputs answered with an error, by its code.", ("code",)
        )
        self.rejected_requests = counter(
            "rejected_requests", "Requests refused as a whole, by the error's code.", ("reason",)
        )
        self.key_requests = counter(
            "key_requests",
            "Requests by API key, as the settings name it: accepted, or limited by its rate.",
            ("key", "outcome"),
        )
        self.captures = counter(
            "captures",
            "Inputs offered to the store of captures, by what became of them.",
            ("outcome",),
        )
        self.request_seconds = histogram(
            "request_duration_seconds", "Time from request to answer.", ("route",), _SECONDS
        )
        self.stage_seconds = histogram(
            "stage_duration_seconds", "Time of a request in one stage.", ("stage",), _SECONDS
        )
        self.batch_release = counter(
            "batch_release",
            "Batches by why they were run: a thread was idle; one became free; the batch was "
            "full; its input goes alone after its batch failed.",
            ("model", "reason"),
        )
        self.batch_size = histogram(
            "batch_size", "Inputs given to the model at once.", ("model",), _BATCH
        )
        self.p_value = CountedHistogram(
            "oodscore_p_value",
            "Conformal p-value of an input: its place among the calibration scores, small = OOD.",
            detector,
            registry=registry,
            buckets=_P_VALUES,
        )
        self.calibration_size = gauge(
            "calibration_size", "Calibration scores behind a detector's p-values.", detector
        )
        self.expected_ood_rate = gauge(
            "expected_ood_rate", "Share of ID inputs the detector may find OOD.", detector
        )
        self.primary_detector = gauge(
            "primary_detector", "1 for the detector that decides unless a caller asks.", detector
        )
        self.calibration_labels = gauge(
            "calibration_labels",
            "Calibration inputs by predicted label, where the bundle records them.",
            (*model, "label"),
        )
        self.bundle_reloads = counter(
            "bundle_reloads",
            "Versions that came and went while the service runs: loaded, refused, retired.",
            ("model", "outcome"),
        )
        self.bundles_refused = gauge(
            "bundles_refused",
            "Versions that lie in the models folder and cannot be served.",
            ("model",),
        )
        self.queue_items = gauge("queue_items", "Inputs waiting or being scored.")
        self.queue_seconds = gauge(
            "queue_seconds", "Time until all of them are answered if no more come."
        )
        self.in_flight = gauge("in_flight", "HTTP requests being answered.")
        self.model_ready = gauge("model_ready", "1 when the version answers requests.", model)
        self.model_info = gauge(
            "model_info",
            "1; the labels describe the version and which form of it is served.",
            (*model, "digest", "provider", "variant"),
        )
        self.calibration_age = gauge(
            "calibration_age_seconds", "Time since the bundle was made.", model
        )
        self.build_info = gauge("build_info", "1; the release that answers.", ("version",))
        self.build_info.labels(installed_version("oodscore")).set(1)
        self._refused_of: set[str] = set()
        self.stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}

    def watch_captures(self, stored: Callable[[], float], size_bytes: Callable[[], float]) -> None:
        """Gauges of the store of captures, where there is one."""
        for name, text, value in (
            ("captures_stored", "Inputs kept for review.", stored),
            ("captures_stored_bytes", "Their size together.", size_bytes),
        ):
            Gauge(f"oodscore_{name}", text, registry=self.registry).set_function(value)

    def add_model(self, facts: ModelFacts, now: Callable[[], float] = time.time) -> ModelMetrics:
        """Set the gauges of a version that is served from now on."""
        bound = (facts.name, facts.version)
        self.model_ready.labels(*bound).set(1)
        self.model_info.labels(*bound, facts.digest, facts.provider, facts.variant).set(1)
        created = facts.created_unix_seconds
        self.calibration_age.labels(*bound).set_function(lambda: now() - created)
        for detector in facts.detectors:
            self.calibration_size.labels(*bound, detector.name).set(detector.calibration_size)
            self.expected_ood_rate.labels(*bound, detector.name).set(detector.expected_ood_rate)
        self.primary_detector.labels(*bound, facts.primary).set(1)
        if facts.label_counts is not None:
            for label, count in zip(facts.labels, facts.label_counts, strict=True):
                self.calibration_labels.labels(*bound, label).set(count)
        model = ModelMetrics(self, facts)
        self._models.add(model)
        return model

    def withdraw_model(self, name: str, version: str) -> None:
        """Remove the gauges of a version that is not served from now on; its counters stay."""
        for family in (
            self.model_ready,
            self.model_info,
            self.calibration_age,
            self.calibration_size,
            self.calibration_labels,
            self.expected_ood_rate,
            self.primary_detector,
        ):
            family.remove_by_labels({"model": name, "version": version})

    def forget_model(self, name: str, version: str) -> None:
        """Remove the counters too: nobody counts there any more."""
        for family in (
            self.decisions,
            self.detector_ood,
            self.predicted_label,
            self.truncated_texts,
            self.score_decile,
            self.p_value,
        ):
            family.remove_by_labels({"model": name, "version": version})

    def set_bundles_refused(self, counts: Mapping[str, int]) -> None:
        """Model -> versions that cannot be served; a model left out has no series."""
        for model in self._refused_of - set(counts):
            self.bundles_refused.remove(model)
        self._refused_of = set(counts)
        for model, count in counts.items():
            self.bundles_refused.labels(model).set(count)
