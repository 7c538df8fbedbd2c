"""How soon each alert fires: simulated service, simulated time, the real rules in promtool.

So many inputs a second are drawn; what the service would count and show is written down at every
scrape, CALM_SECONDS without drift and DRIFT_SECONDS with it, several streams as versions of one
model.  `promtool test rules` evaluates recording rules and alerts over it, `for:` included, and is
asked when each alert first fired.  The primary detector only: OodscoreDriftSeenByOthers is left
out.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.drift.drifts import Drift, Streams
from benchmarks.drift.scores import Answers
from benchmarks.drift.sequential import RUN_LENGTH
from benchmarks.drift.statistics import WINDOW
from service.drift.psi import bin_counts, psi
from service.drift.reference import Reference
from service.drift.sequential import Sequential
from service.drift.window import SlidingWindow, WindowSize

Array = NDArray[np.float64]
PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
ALERTS = (
    "OodscoreOodRateFast",
    "OodscoreOodRateSlow",
    "OodscoreDriftAlarm",
    "OodscoreDriftLasting",
    "OodscoreDriftGradual",
    "OodscoreDistributionShift",
    "OodscoreLabelShift",
)
DETECTOR = "combined"
INPUTS_A_SECOND = 10
SCRAPE_SECONDS = 60
CALM_SECONDS, DRIFT_SECONDS = 6 * 3600, 2 * 3600
STREAMS = 5
_STEP = INPUTS_A_SECOND * SCRAPE_SECONDS
_FIRST_FIRING = (
    'min_over_time(timestamp(ALERTS{{alertstate="firing", alertname="{name}"}})[{seconds}s:60s])'
)
_SAMPLE = re.compile(r'alertname="(\w+)"[^}]*version="(\d+)"[^}]*\}\s+([\d.eE+-]+)')


@dataclass
class Simulated:
    """A service so far.  `seen`: metric -> its value at every scrape; labels as (k,)."""

    rng: np.random.Generator
    reference: Reference
    window: SlidingWindow
    sequential: Sequential
    label_counts: NDArray[np.int64]
    labels: NDArray[np.int64]
    inputs: int = 0
    ood: int = 0
    seen: dict[str, list[Array]] = field(default_factory=dict[str, list[Array]])

    def scrape(self, answers: Answers) -> None:
        """After the inputs of one interval."""
        scores = answers.scores[DETECTOR]
        now = (self.inputs + len(scores)) / INPUTS_A_SECOND
        times = np.linspace(now - SCRAPE_SECONDS, now, len(scores))
        self.window.add(scores, times)
        self.sequential.update(scores, times, WINDOW)
        self.inputs += len(scores)
        self.ood += int((scores > self.reference.spec.threshold).sum())
        self.labels = self.labels + np.bincount(answers.labels, minlength=len(self.labels))
        values = {
            "inputs": self.inputs,
            "ood": self.ood,
            "alarms": self.sequential.alarms,
            "martingale": self.sequential.martingale_report().alarms,
            "psi": self._psi(now),
            "labels": self.labels,
        }
        for name, value in values.items():
            self.seen.setdefault(name, []).append(np.asarray(value, np.float64))

    def _psi(self, now: float) -> float:
        scores, _ = self.window.read(now)
        return psi(bin_counts(scores, self.reference.edges), self.reference.bin_counts)


def calm_services(
    cuts: Sequence[Streams], reference: Reference, run_length: float
) -> list[Simulated]:
    """One a cut, after CALM_SECONDS without drift."""
    services: list[Simulated] = []
    for seed, streams in enumerate(cuts):
        service = Simulated(
            np.random.default_rng(seed),
            reference,
            SlidingWindow(WindowSize(WINDOW, 3600.0)),
            Sequential(reference.bets, run_length, 0.0, "first_seen"),
            streams.label_counts,
            np.zeros(len(streams.label_counts), np.int64),
        )
        for _ in range(CALM_SECONDS // SCRAPE_SECONDS):
            service.scrape(streams.ordinary(service.rng, 0, _STEP))
        services.append(service)
    return services


def simulate(calm: Simulated, drift: Drift) -> dict[str, list[Array]]:
    """What Prometheus sees of it, calm and drifting."""
    service = deepcopy(calm)
    for step in range(DRIFT_SECONDS // SCRAPE_SECONDS):
        service.scrape(drift.draw(service.rng, step * _STEP, _STEP))
    return service.seen


def delays(
    names: Sequence[str], cuts: Sequence[Streams], place: int, calm: Sequence[Simulated]
) -> dict[str, dict[str, float | None]]:
    """Alert -> median and 90 % quantile of the minutes until it fires, null: not within
    DRIFT_SECONDS; of the streams it had not fired in before, the share it
    fired in; share it fired in while nothing drifted.
    `names`: of the labels; `place`: of the drift."""
    series = [{"series": 'up{job="oodscore"}', "values": f"1x{_scrapes()}"}]
    for version, (streams, service) in enumerate(zip(cuts, calm, strict=True)):
        seen = simulate(service, streams.drifts[place])
        series += list(_series(seen, names, service, version))
    fired = _first_firings(series)
    return {alert: _delay([fired.get((alert, v)) for v in range(len(cuts))]) for alert in ALERTS}


def _scrapes() -> int:
    return (CALM_SECONDS + DRIFT_SECONDS) // SCRAPE_SECONDS


def _series(
    seen: dict[str, list[Array]], names: Sequence[str], service: Simulated, version: int
) -> Iterator[dict[str, str]]:
    """As `promtool test rules` reads them."""
    whose = f'model="m",version="{version}"'
    steps = _scrapes()
    values = {
        "oodscore_p_value_count": seen["inputs"],
        "oodscore_detector_ood_total": seen["ood"],
        "oodscore_drift_alarms_total": seen["alarms"],
        "oodscore_drift_martingale_alarms_total": seen["martingale"],
        "oodscore_drift_psi": seen["psi"],
    }
    constants = {
        "oodscore_drift_window_size": WINDOW,
        "oodscore_drift_run_length": RUN_LENGTH,
        "oodscore_calibration_size": service.reference.size,
        "oodscore_expected_ood_rate": service.reference.expected_ood_rate,
        "oodscore_primary_detector": 1,
    }
    for metric, numbers in values.items():
        text = " ".join(f"{float(number):.6g}" for number in numbers)
        yield {"series": f'{metric}{{{whose},detector="{DETECTOR}"}}', "values": text}
    for metric, number in constants.items():
        text = f"{number:.6g}x{steps}"
        yield {"series": f'{metric}{{{whose},detector="{DETECTOR}"}}', "values": text}
    for place, name in enumerate(names):
        text = " ".join(f"{float(counts[place]):.0f}" for counts in seen["labels"])
        label = f'{whose},label="{name}"'
        yield {"series": f"oodscore_predicted_label_total{{{label}}}", "values": text}
        text = f"{service.label_counts[place]}x{steps}"
        yield {"series": f"oodscore_calibration_labels{{{label}}}", "values": text}


def _first_firings(series: list[dict[str, str]]) -> dict[tuple[str, int], float]:
    """(alert, stream) -> seconds since the beginning of the drift, negative: before it."""
    end = CALM_SECONDS + DRIFT_SECONDS
    # one by one: promtool lets a query look at ten thousand samples
    asked = [
        {"expr": _FIRST_FIRING.format(name=name, seconds=end), "eval_time": f"{end}s"}
        for name in ALERTS
    ]
    document = {
        "rule_files": [str(file) for file in sorted((PROMETHEUS / "rules").glob("*.yml"))],
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": series,
                "promql_expr_test": [query | {"exp_samples": []} for query in asked],
            }
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(document, file, width=float("inf"))
        file.flush()
        # it fails, and tells what it got: nothing was expected
        done = subprocess.run(
            ["promtool", "test", "rules", file.name], capture_output=True, text=True, check=False
        )
    told = done.stdout + done.stderr
    if done.returncode and ("got:" not in told or "err:" in told):
        raise SystemExit(told[-2000:])
    return {
        (alert, int(version)): float(at) - CALM_SECONDS
        for alert, version, at in _SAMPLE.findall(told)
    }


def _delay(seconds: list[float | None]) -> dict[str, float | None]:
    late = [np.inf if s is None else s / 60 for s in seconds]
    after = [minutes for minutes in late if minutes >= 0]
    return {
        "median": _finite(np.quantile(after, 0.5, method="higher")) if after else None,
        "q90": _finite(np.quantile(after, 0.9, method="higher")) if after else None,
        "fired": float(np.mean([minutes < np.inf for minutes in after])) if after else 0.0,
        "fired_before": float(np.mean([minutes < 0 for minutes in late])),
    }


def _finite(value: float) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None
