"""How soon is drift found, how often is there none?  python -m benchmarks.drift_detection

Scores of models/fashion-mnist/2 on its test-ID (Debian's dataset-fashion-mnist) and three OOD sets
below OODSCORE_DATA.  ID streams resample test-ID; "shipped" holds them against the bundle's own
calibration, "re-split" draws calibration and stream anew out of both in every run.  Delays count
inputs after 2,000 ID ones until the first alarm.  Writes results/drift_detection.json.
"""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import environment
from service.bundle import FORWARD, BundleRef
from service.drift.bets import BETS, CONFIDENCE, Bets
from service.drift.cusum import Cusum
from service.drift.martingale import Martingale
from service.drift.psi import bin_counts, bin_edges, psi, psi_threshold
from service.graphs import SessionOptions
from service.loading import open_bundle
from service.settings import Settings

Array = NDArray[np.float64]
RESULT = Path(__file__).parent / "results" / "drift_detection.json"
BUNDLE = BundleRef("fashion-mnist", 2, Path("models/fashion-mnist/2"))
TEST_ID = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
OOD_FILES = {"mnist": "mnist/test", "notmnist": "notmnist/test", "omniglot": "omniglot/small28"}
DETECTORS = ("combined", "energy", "knn")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
RUNS, LENGTH, FIRST = 100, 100_000, 20_000
STREAMS, BEFORE, HORIZON = 100, 2_000, 20_000
RUN_LENGTH = Settings().drift_run_length


def read_scores() -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """detector -> calibration scores; set -> detector -> scores."""
    with gzip.open(TEST_ID) as stream:
        pixels = {"test_id": np.frombuffer(stream.read(), np.uint8, offset=16)}
    for name, file in OOD_FILES.items():
        path = Path(os.environ["OODSCORE_DATA"]) / f"{file}.npz"
        pixels[name] = np.load(path)["images"][:5000]
    bundle = open_bundle(BUNDLE, SessionOptions("cpu", 1))
    outputs = [f"score/{detector}" for detector in DETECTORS]
    scores: dict[str, dict[str, Array]] = {}
    for name, values in pixels.items():
        rows = values.reshape(-1, 28, 28, 1)
        found = [
            bundle.session(FORWARD).run(rows[i : i + 64], outputs) for i in range(0, len(rows), 64)
        ]
        scores[name] = {
            d: np.concatenate([f[f"score/{d}"] for f in found]).astype(np.float64)
            for d in DETECTORS
        }
    calibration = {d: bundle.calibration[d].astype(np.float64) for d in DETECTORS}
    return calibration, scores


def cusum_alarm(bets: Bets, scores: Array) -> int | None:
    """Place of the first alarm."""
    alarms = Cusum(bets.count, RUN_LENGTH, 0.0).update(
        bets.log_payoffs_of(scores), np.zeros(len(scores))
    )
    return alarms[0].index if alarms else None


def martingale_alarm(bets: Bets, scores: Array) -> int | None:
    alarms = Martingale(bets.count).update(bets.log_payoffs_of(scores))
    return alarms[0] if alarms else None


ALARMS: dict[str, Callable[[Bets, Array], int | None]] = {
    "cusum": cusum_alarm,
    "martingale": martingale_alarm,
}


def false_alarms(calibration: Array, test_id: Array, seed: int) -> dict[str, object]:
    """Shares of runs with an alarm within FIRST and LENGTH inputs."""
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([calibration, test_id])
    found: dict[str, list[int | None]] = {}
    for _ in range(RUNS):
        order = rng.permutation(len(pooled))
        split = len(calibration)
        ways = {
            "shipped": (calibration, test_id),
            "re-split": (np.sort(pooled[order[:split]]), pooled[order[split:]]),
        }
        for way, (reference, stock) in ways.items():
            bets = Bets.against(reference)
            stream = rng.choice(stock, LENGTH)
            for name, alarm in ALARMS.items():
                found.setdefault(f"{name}, {way}", []).append(alarm(bets, stream))
    return {
        name: {
            f"within_{length}": sum(p is not None and p < length for p in places) / RUNS
            for length in (FIRST, LENGTH)
        }
        for name, places in found.items()
    }


def delays(bets: Bets, test_id: Array, ood: Array, share: float, seed: int) -> dict[str, object]:
    """Median and 90 % quantile, null beyond the horizon; alarms before the change leave the run."""
    rng = np.random.default_rng(seed)
    horizon = HORIZON if share < 0.05 else 3_000
    found: dict[str, list[float]] = {name: [] for name in ALARMS}
    for _ in range(STREAMS):
        stream = rng.choice(test_id, BEFORE + horizon)
        strange = np.flatnonzero(rng.random(horizon) < share) + BEFORE
        stream[strange] = rng.choice(ood, len(strange))
        for name, alarm in ALARMS.items():
            place = alarm(bets, stream)
            if place is None or place >= BEFORE:
                found[name].append(np.inf if place is None else place - BEFORE + 1)
    return {
        name: {
            "median": _finite(np.quantile(places, 0.5, method="higher")),
            "q90": _finite(np.quantile(places, 0.9, method="higher")),
            "runs": len(places),
        }
        for name, places in found.items()
    }


def psi_levels(calibration: Array, test_id: Array, seed: int) -> list[dict[str, float]]:
    """What PSI > 0.1 and PSI > its level give on one look at windows of ID inputs, re-split."""
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([calibration, test_id])
    rows: list[dict[str, float]] = []
    for size in (100, 200, 500, 1000, 2000, 5000):
        fixed, fitting = [], []
        for _ in range(1000):
            order = rng.permutation(len(pooled))
            reference = np.sort(pooled[order[: len(calibration)]])
            window = pooled[order[len(calibration) :]][:size]
            edges = bin_edges(reference)
            value = psi(bin_counts(window, edges), bin_counts(reference, edges))
            fixed.append(value > 0.1)
            fitting.append(value > psi_threshold(size, len(calibration), len(edges) + 1, 0.001))
        rows.append(
            {"window": size, "above_0.1": float(np.mean(fixed)), "beyond": float(np.mean(fitting))}
        )
    return rows


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def main() -> None:
    calibration, scores = read_scores()
    result: dict[str, object] = {
        "environment": environment(),
        "bundle": f"{BUNDLE.name}/{BUNDLE.version}",
        "run_length": RUN_LENGTH,
        "confidence": CONFIDENCE,
        "bets": BETS,
        "false_alarms": {
            d: false_alarms(calibration[d], scores["test_id"][d], 0) for d in DETECTORS
        },
        "delays": {
            d: {
                name: {
                    str(share): delays(
                        Bets.against(calibration[d]),
                        scores["test_id"][d],
                        scores[name][d],
                        share,
                        seed,
                    )
                    for seed, share in enumerate(SHARES)
                }
                for name in OOD_FILES
            }
            for d in DETECTORS
        },
        "psi": psi_levels(calibration["combined"], scores["test_id"]["combined"], 0),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT)


if __name__ == "__main__":
    main()
