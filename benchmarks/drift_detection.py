"""How soon is drift found, how often is there none?  python -m benchmarks.drift_detection

Scores and predicted labels of models/fashion-mnist/2 on its test-ID (Debian's
dataset-fashion-mnist), on corruptions of it, and on three OOD sets below OODSCORE_DATA.  ID streams
resample test-ID; "shipped" holds them against the bundle's own calibration, "re-split" draws
calibration and stream anew out of both in every run.  Delays count inputs after 2,000 ID ones until
the first alarm; alerts are evaluated by promtool (Debian's prometheus) on simulated time.  Writes
results/drift_detection.json; `--only PART` makes one part of it anew.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drift import alerts, statistics
from benchmarks.drift.drifts import SHARES, Drift, streams_of
from benchmarks.drift.false_alarms import (
    false_alarms,
    of_uniform_scores,
    psi_levels,
    uniformity,
)
from benchmarks.drift.scores import BUNDLE, DETECTORS, OOD_FILES, World, read_world
from benchmarks.drift.sequential import RUN_LENGTH, delays
from benchmarks.environment import environment
from service.drift.bets import BETS, CONFIDENCE, Bets

RESULT = Path(__file__).parent / "results" / "drift_detection.json"


def _false_alarms(world: World) -> dict[str, Any]:
    return {d: false_alarms(world.calibration(d), world.test_id.scores[d], 0) for d in DETECTORS}


def _simulated(_: World) -> dict[str, Any]:
    return {str(size): of_uniform_scores(size, 0) for size in (1_000, 5_000, 10_000)}


def _uniformity(world: World) -> dict[str, Any]:
    return {d: uniformity(world.calibration(d), world.test_id.scores[d], 0) for d in DETECTORS}


def _psi(world: World) -> Any:
    return psi_levels(world.calibration("combined"), world.test_id.scores["combined"], 0)


def _delays(world: World) -> dict[str, Any]:
    return {
        detector: {
            name: {
                str(share): delays(
                    Bets.against(world.calibration(detector)),
                    world.test_id.scores[detector],
                    world.ood[name].scores[detector],
                    share,
                    seed,
                )
                for seed, share in enumerate(SHARES)
            }
            for name in OOD_FILES
        }
        for detector in DETECTORS
    }


def _statistics(world: World) -> dict[str, Any]:
    reference = statistics.reference_of(world, alerts.DETECTOR)
    cuts = [streams_of(world, seed) for seed in range(statistics.STREAMS)]
    return {
        "streams": statistics.STREAMS,
        "look": statistics.LOOK,
        "window": statistics.WINDOW,
        "drifts": [
            _described(drift, statistics.delays(world, cuts, place, reference, RUN_LENGTH))
            for place, drift in enumerate(cuts[0].drifts)
        ],
    }


def _alerts(world: World) -> dict[str, Any]:
    reference = statistics.reference_of(world, alerts.DETECTOR)
    cuts = [streams_of(world, seed) for seed in range(alerts.STREAMS)]
    calm = alerts.calm_services(cuts, reference, RUN_LENGTH)
    names = world.bundle.manifest.class_names
    return {
        "streams": alerts.STREAMS,
        "inputs_a_second": alerts.INPUTS_A_SECOND,
        "scrape_seconds": alerts.SCRAPE_SECONDS,
        "calm_seconds": alerts.CALM_SECONDS,
        "drift_seconds": alerts.DRIFT_SECONDS,
        "drifts": [
            _described(drift, alerts.delays(names, cuts, place, calm))
            for place, drift in enumerate(cuts[0].drifts)
        ],
    }


def _described(drift: Drift, found: dict[str, Any]) -> dict[str, Any]:
    print(drift.kind, drift.of, drift.size, flush=True)
    return {"kind": drift.kind, "of": drift.of, "size": drift.size, "found": found}


PARTS: dict[str, Callable[[World], Any]] = {
    "false_alarms": _false_alarms,
    "simulated": _simulated,
    "uniformity": _uniformity,
    "psi": _psi,
    "delays": _delays,
    "statistics": _statistics,
    "alerts": _alerts,
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_detection")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="repeatable")
    arguments = parser.parse_args(given)
    wanted = arguments.only or list(PARTS)
    if "alerts" in wanted and shutil.which("promtool") is None:
        parser.error("promtool is not on the PATH (Debian package prometheus)")
    world = read_world()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result |= {
        "environment": environment(),
        "bundle": f"{BUNDLE.name}/{BUNDLE.version}",
        "run_length": RUN_LENGTH,
        "confidence": CONFIDENCE,
        "bets": BETS,
    }
    for part in wanted:
        result[part] = PARTS[part](world)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()
