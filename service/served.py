"""What is kept beside a served version: its metrics and its drift.  Both outlive it a little.

Requests that began with a version are still counted when it is no longer served; its evidence of
drift is put aside when the last of them has ended, its series go once Prometheus has read them.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from service.drift import DriftTracker
from service.loading import LoadedBundle
from service.logs import fields
from service.metrics import DetectorFacts, Metrics, ModelFacts, ModelMetrics

logger = logging.getLogger(__name__)

# long enough for many scrapes, and for the slowest request
SERIES_KEPT_SECONDS = 900.0

Key = tuple[str, str]  # name, version


@dataclass(frozen=True)
class _Kept:
    """`digest`: of the bundle that has the place."""

    metrics: ModelMetrics
    digest: str


@dataclass
class _Ended:
    bundle: "weakref.ReferenceType[LoadedBundle]"
    released_at: float | None = None


class ServedVersions:
    """To be shared by threads."""

    def __init__(
        self,
        metrics: Metrics,
        drift: DriftTracker | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._drift = drift
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[Key, _Kept] = {}
        self._ended: dict[Key, _Ended] = {}

    def begin(self, bundle: LoadedBundle) -> None:
        """Before the first request reaches it."""
        key = (bundle.name, bundle.version)
        with self._lock:
            self._ended.pop(key, None)
            self._metrics.withdraw_model(*key)  # of another bundle that had the place
            before = self._kept.get(key)
            self._kept[key] = _Kept(self._metrics.add_model(_facts(bundle)), bundle.digest)
        if before is not None:
            before.metrics.flush()
        if self._drift is not None:
            identity = f"{bundle.digest}:{bundle.variant}"
            self._drift.watch(bundle.manifest, bundle.calibration, identity)

    def end(self, bundle: LoadedBundle) -> None:
        """No new request reaches it; others are still being answered."""
        key = (bundle.name, bundle.version)
        with self._lock:
            self._metrics.withdraw_model(*key)
            self._ended[key] = _Ended(weakref.ref(bundle))

    def metrics_of(self, bundle: LoadedBundle) -> ModelMetrics | None:
        """Where its answers count; None once another bundle has taken its very place."""
        kept = self._kept.get((bundle.name, bundle.version))
        return kept.metrics if kept is not None and kept.digest == bundle.digest else None

    @property
    def draining(self) -> list[Key]:
        """Versions that ended while some of their requests have not."""
        with self._lock:
            return [key for key, ended in self._ended.items() if ended.bundle() is not None]

    def tidy(self) -> None:
        """Let go of what nobody needs any more."""
        now = self._clock()
        with self._lock:
            for key, ended in list(self._ended.items()):
                if ended.bundle() is not None:
                    continue
                if ended.released_at is None:
                    ended.released_at = now
                    if self._drift is not None:
                        self._drift.unwatch(*key)
                    logger.info("bundle released", extra=fields(model=key[0], version=key[1]))
                elif now - ended.released_at >= SERIES_KEPT_SECONDS:
                    self._metrics.forget_model(*key)
                    del self._kept[key], self._ended[key]


def _facts(bundle: LoadedBundle) -> ModelFacts:
    manifest = bundle.manifest
    return ModelFacts(
        name=bundle.name,
        version=bundle.version,
        digest=bundle.digest,
        provider=bundle.provider,
        variant=bundle.variant,
        created_unix_seconds=manifest.provenance.created.timestamp(),
        labels=manifest.class_names,
        label_counts=manifest.label_counts,
        detectors=[
            DetectorFacts(spec.name, spec.calibration_size, 1 - spec.id_acceptance)
            for spec in manifest.detectors
        ],
        primary=manifest.policy.primary,
    )
