"""How often there is an alarm, or a statistic `beyond`, while nothing drifts."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.drift.sequential import ALARMS
from service.drift.bets import Bets
from service.drift.psi import bin_counts, bin_edges, psi, psi_threshold
from service.drift.report import SIGNIFICANCE
from service.drift.uniformity import p_value_counts, randomised_p_values, uniformity_p_value

Array = NDArray[np.float64]
RUNS, LENGTH, FIRST = 400, 100_000, 20_000
SIMULATED = 4_000
LOOKS, WINDOW = 1_000, 2_000


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


def of_uniform_scores(size: int, seed: int) -> dict[str, float]:
    """The same for inputs that are independent indeed, `size` of them in each calibration: streams
    that resample a finite test set share its own deviation from the calibration."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[int | None]] = {name: [] for name in ALARMS}
    for _ in range(SIMULATED):
        bets = Bets.against(np.sort(rng.random(size)))
        stream = rng.random(FIRST)
        for name, alarm in ALARMS.items():
            found[name].append(alarm(bets, stream))
    return {name: sum(p is not None for p in places) / SIMULATED for name, places in found.items()}


def uniformity(calibration: Array, test_id: Array, seed: int) -> dict[str, float]:
    """The p-value histogram of LOOKS windows of ID inputs, re-split: its own p-values should be
    uniform, so they are tested for that (Kolmogorov-Smirnov); and how many are `beyond`."""
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([calibration, test_id])
    found: list[float] = []
    for _ in range(LOOKS):
        order = rng.permutation(len(pooled))
        reference = np.sort(pooled[order[: len(calibration)]])
        window = pooled[order[len(calibration) :]][:WINDOW]
        counts = p_value_counts(randomised_p_values(reference, window, rng))
        found.append(uniformity_p_value(counts, len(reference)))
    return {
        "ks_p_value": float(stats.kstest(found, "uniform").pvalue),
        "beyond": float(np.mean(np.array(found) < SIGNIFICANCE)),
        "below_0.05": float(np.mean(np.array(found) < 0.05)),
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
