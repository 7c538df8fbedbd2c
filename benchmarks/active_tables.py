"""The tables and the picture of docs/active-learning.md:  python -m benchmarks.active_tables

Out of benchmarks/results/active-learning/study.json; per cent, means over seeds with their 95 %
Student interval.  Arms are compared seed by seed: they begin with the same labels and pool.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.page_blocks import fill, table
from training.evaluation.canvas import ood_style, panel_grid, save_png

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "active-learning.md"
PICTURE = ROOT / "docs" / "active-learning.png"
RESULTS = ROOT / "benchmarks" / "results" / "active-learning" / "study.json"
BASELINE = "mi_uniform"
BLOCK = "active-learning"
_TWO_SIDED = 0.975
_SCORES = {
    "entropy": "entropy",
    "mutual_information": "mutual information",
    "id_density": "density of ID",
    "overall_density": "density of everything",
    "id_probability": "P(ID)",
}

Rounds = Sequence[Mapping[str, Any]]
Arms = Mapping[str, Sequence[Rounds]]  # arm -> seed -> rounds


def measured() -> dict[str, Any]:
    """study.json."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def arms(found: Mapping[str, Any]) -> Arms:
    """Rounds of the seeds that every arm has finished."""
    entries = found["arms"]
    seeds = sorted(set.intersection(*(set(arm["by_seed"]) for arm in entries.values())), key=int)
    return {
        name: [arm["by_seed"][seed]["rounds"] for seed in seeds] for name, arm in entries.items()
    }


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends."""
    found = measured()
    runs = arms(found)
    what = {name: arm["what"] for name, arm in found["arms"].items()}
    parts = [
        _about(found, runs),
        _accuracies(runs, what),
        "Accuracy after all queries, and its mean over all rounds, less that of "
        f"`{BASELINE}`, seed by seed (points):",
        _differences(runs),
        "Contaminants among the inputs of each round, per cent:",
        _contaminants(runs),
        "AUROC of each score for telling contaminants from ID among what waits in the pool: at the "
        "first round with rejected inputs, and at the last one.",
        _areas(runs),
    ]
    return {BLOCK: "\n".join(f"{part.rstrip()}\n" for part in parts)}


def summary(found: Mapping[str, Any]) -> str:
    """What docs/results.md shows of it."""
    runs = arms(found)
    what = {name: arm["what"] for name, arm in found["arms"].items()}
    parts = [
        _about(found, runs),
        _accuracies(runs, what),
        "Contaminants among the inputs of each round, per cent:",
        _contaminants(runs),
    ]
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def filled(page: str) -> str:
    """The page with the block of today."""
    return fill(page, blocks(), "docs/active-learning.md")


def _about(found: Mapping[str, Any], runs: Arms) -> str:
    count = len(next(iter(runs.values())))
    seeds = "One seed" if count == 1 else f"{count} seeds"
    entry = next(iter(next(iter(found["arms"].values()))["by_seed"].values()))
    study = entry["config"]["study"]
    recipe = study["recipe"]
    return (
        f"{seeds}; {study['initial']} labels to begin with, {study['batch']} queries a round "
        f"up to {study['queries']}; a pool of {study['pool_id']:,} MNIST and {study['pool_ood']:,} "
        f"Fashion-MNIST images; accuracy on {study['test_count']:,} test images. Each round trains "
        f"a small LeNet from new, {recipe['steps']} steps of {recipe['batch_size']} images; "
        f"{recipe['passes']} passes of MC dropout. Made on {found['machine']['processor']}. "
        "Intervals are 95 % Student intervals over the seeds."
    )


def _mean(values: Sequence[float], scale: float = 100.0, sign: str = "") -> str:
    mean = scale * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:{sign}.1f}"
    half = half_interval(values)
    return f"{mean:{sign}.1f} ± {scale * half:.1f}"


def half_interval(values: Sequence[float]) -> float:
    """Half of Student's interval of a mean; of differences, too, which are no shares."""
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(stats.t.ppf(_TWO_SIDED, len(values) - 1)) * spread


def _queries(runs: Arms) -> list[int]:
    return [entry["queries"] for entry in next(iter(runs.values()))[0]]


def _column(seeds: Sequence[Rounds], queries: int, key: str) -> list[float]:
    return [next(r[key] for r in rounds if r["queries"] == queries) for rounds in seeds]


def _overall(seeds: Sequence[Rounds]) -> list[float]:
    return [float(np.mean([r["accuracy"] for r in rounds])) for rounds in seeds]


def _accuracies(runs: Arms, what: Mapping[str, str]) -> str:
    steps = _queries(runs)
    shown = [step for step in steps if step and step % 50 == 0] or steps[1:]
    rows = [
        [
            f"`{name}`",
            what[name],
            *(_mean(_column(seeds, step, "accuracy")) for step in shown),
            _mean(_overall(seeds)),
        ]
        for name, seeds in runs.items()
    ]
    header = ["arm", "asks by", *(f"after {step}" for step in shown), "mean of all rounds"]
    return table(header, rows)


def _differences(runs: Arms) -> str:
    last = _queries(runs)[-1]
    rows = []
    for name, seeds in runs.items():
        if name == BASELINE:
            continue
        pairs = [
            (_column(seeds, last, "accuracy"), _column(runs[BASELINE], last, "accuracy")),
            (_overall(seeds), _overall(runs[BASELINE])),
        ]
        cells = [
            _mean([a - b for a, b in zip(ours, theirs, strict=True)], sign="+")
            for ours, theirs in pairs
        ]
        rows.append([f"`{name}`", *cells])
    return table(["arm", f"after {last}", "mean of all rounds"], rows)


def _shares(seeds: Sequence[Rounds]) -> list[list[float]]:
    """Seed by seed, the share of contaminants in each round."""
    return [[r["contaminants"] / r["asked"] for r in rounds if "asked" in r] for rounds in seeds]


def _contaminants(runs: Arms) -> str:
    count = len(next(iter(runs.values()))[0]) - 1
    rows = []
    for name, seeds in runs.items():
        shares = np.array(_shares(seeds))
        rows.append(
            [
                f"`{name}`",
                *(f"{100 * share:.0f}" for share in shares.mean(0)),
                _mean(shares.mean(1).tolist()),
            ]
        )
    return table(["arm", *(f"round {n}" for n in range(1, count + 1)), "all queries"], rows)


def _areas(runs: Arms) -> str:
    rows = []
    for name, seeds in runs.items():
        asked = [[r for r in rounds if r.get("auroc")] for rounds in seeds]
        if not all(asked):
            continue
        cells = []
        for score in _SCORES:
            ends = [
                [next((r for r in rounds if r["rejected"]), rounds[-1]) for rounds in asked],
                [rounds[-1] for rounds in asked],
            ]
            values = [
                [100 * r["auroc"][score] for r in records if score in r["auroc"]]
                for records in ends
            ]
            cells.append(" → ".join(f"{np.mean(v):.1f}" for v in values if v) or "–")
        rows.append([f"`{name}`", *cells])
    return table(["arm", *_SCORES.values()], rows)


def draw(path: Path) -> None:
    """Accuracy with intervals, and the share of contaminants, against queries."""
    runs = arms(measured())
    figure: Figure
    figure, (left, right) = panel_grid(
        2, "MNIST wanted, half of the pool is Fashion-MNIST", columns=2, panel=(4.6, 3.4)
    )
    steps = _queries(runs)
    for position, (name, seeds) in enumerate(runs.items()):
        colour, line = ood_style(position)
        values = np.array([[r["accuracy"] for r in rounds] for rounds in seeds])
        left.plot(steps, 100 * values.mean(0), line, color=colour, label=name, linewidth=1.5)
        if len(values) > 1:
            halves = np.array([half_interval(column.tolist()) for column in values.T])
            low, high = values.mean(0) - halves, values.mean(0) + halves
            left.fill_between(steps, 100 * low, 100 * high, color=colour, alpha=0.10, linewidth=0)
        shares = 100 * np.array(_shares(seeds)).mean(0)
        right.plot(steps[1:], shares, line, color=colour, marker=".", linewidth=1.5)
    left.set(xlabel="queries", ylabel="accuracy, %")
    right.set(xlabel="queries", ylabel="contaminants in the round, %")
    left.legend(fontsize=7, frameon=False)
    save_png(figure, path)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(PICTURE)
