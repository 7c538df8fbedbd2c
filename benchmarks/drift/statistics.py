"""How soon each statistic of GET /drift says so: the service's own code on streams of answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.drifts import Drift, Streams
from benchmarks.drift.scores import World
from benchmarks.drift.sequential import ALARMS
from service.drift.detector import DetectorDrift
from service.drift.labels import LabelDrift
from service.drift.reference import Reference
from service.drift.report import WindowReport
from service.drift.window import WindowSize

STATISTICS = ("psi", "ks", "wasserstein", "p_values", "ood_rate", "labels", *ALARMS)
STREAMS, WINDOW, LOOK = 11, 2_000, 100
_ALWAYS = 1e12  # seconds: windows by count alone


def horizon_of(drift: Drift) -> int:
    """Inputs after its beginning that are looked at."""
    if drift.kind == "ramp":
        return 10_000
    small = drift.kind == "none" or drift.size in ("1 %", "2 %")
    return 20_000 if small else 6_000


def delays(
    world: World, cuts: Sequence[Streams], place: int, reference: Reference, run_length: float
) -> dict[str, dict[str, float | None]]:
    """Statistic -> median and 90 % quantile of the inputs until it is `beyond` (alarms: given),
    null beyond the horizon, and the share of streams that it found.  `place`: of the drift; one
    stream a cut."""
    found: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for seed, streams in enumerate(cuts):
        drift = streams.drifts[place]
        horizon = horizon_of(drift)
        first = first_found(world, streams, reference, drift, horizon, run_length, seed)
        for name in STATISTICS:
            found[name].append(first.get(name, np.inf))
    return {
        name: {
            "median": _finite(np.quantile(places, 0.5, method="higher")),
            "q90": _finite(np.quantile(places, 0.9, method="higher")),
            "found": float(np.isfinite(places).mean()),
        }
        for name, places in found.items()
    }


def first_found(
    world: World,
    streams: Streams,
    reference: Reference,
    drift: Drift,
    horizon: int,
    run_length: float,
    seed: int,
) -> dict[str, float]:
    """Statistic -> inputs of the drift at the first look that finds it; one look every LOOK."""
    rng = np.random.default_rng(seed)
    name = reference.spec.name
    size = WindowSize(WINDOW, _ALWAYS)
    detector = DetectorDrift(reference, size, run_length, 0.0)
    labels = LabelDrift(world.bundle.manifest.class_names, streams.label_counts, size)
    first: dict[str, float] = {}
    for place in range(-WINDOW, horizon, LOOK):
        draw = streams.ordinary if place < 0 else drift.draw
        answers = draw(rng, place, LOOK)
        times = np.zeros(LOOK)
        detector.add(answers.scores[name].astype(np.float32), times)
        detector.sequential.update(answers.scores[name], times, WINDOW)
        labels.add(answers.labels.tolist(), times)
        if place < 0:
            continue
        for statistic in _beyond(detector, labels):
            first.setdefault(statistic, place + LOOK)
        if len(first) == len(STATISTICS):
            break
    return first


def _beyond(detector: DetectorDrift, labels: LabelDrift) -> list[str]:
    report, mix = detector.report(0.0), labels.report(0.0)
    window = report.window
    if window is None or mix is None:
        return []
    found = {
        **_of_window(window),
        "labels": mix.beyond,
        "shiryaev_roberts": report.shiryaev_roberts.alarms > 0,
        "martingale": report.martingale.alarms > 0,
    }
    return [name for name, beyond in found.items() if beyond]


def _of_window(window: WindowReport) -> dict[str, bool]:
    return {
        "psi": window.psi is not None and window.psi.beyond,
        "ks": window.kolmogorov_smirnov.beyond,
        "wasserstein": window.wasserstein is not None and window.wasserstein.beyond,
        "p_values": window.p_values.beyond,
        "ood_rate": window.ood_rate.beyond,
    }


def reference_of(world: World, detector: str) -> Reference:
    spec = next(spec for spec in world.bundle.manifest.detectors if spec.name == detector)
    return Reference(spec, world.bundle.calibration[detector])


def _finite(value: float | NDArray[np.float64]) -> float | None:
    return float(value) if np.isfinite(value) else None
