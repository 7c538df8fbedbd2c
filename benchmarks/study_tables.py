"""The tables and the picture of docs/choosing-an-objective.md:  python -m benchmarks.study_tables

Out of benchmarks/results/<study>/study.json; per cent, means over seeds and, with three seeds or
more, their 95 % Student interval.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.page_blocks import fill, table
from training.evaluation.intervals import student_interval

matplotlib.use("Agg")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "choosing-an-objective.md"
PICTURE = ROOT / "docs" / "choosing-an-objective.png"
RESULTS = ROOT / "benchmarks" / "results"
DETECTORS = ("msp", "energy", "mahalanobis", "gda_density", "kde", "fssd_density", "fssd")
# AUROC against MNIST, a LeNet trained for 14 epochs: FSSD's table (arXiv:2012.12682)
PUBLISHED_MNIST = {"msp": 77.3, "mahalanobis": 99.6, "fssd": 99.6}
# macro-F1, of VMDLS's table; thresholds keep 95 % of train
PUBLISHED_OPEN_SET = {
    "softmax": (0.595, 0.801, 0.829),
    "VMDLS_b": (0.969, 0.961, 0.963),
    "VMDLS": (0.974, 0.984, 0.984),
}
# AUROC, AUPR-in, AUPR-out, FPR95: means over three sets, of generative outlier exposure
PUBLISHED_TEXT = {
    "none": {"msp": (82.06, 62.08, 88.74, 52.02), "energy": (89.35, 69.95, 94.56, 31.93)},
    "noise": {"msp": (93.22, 77.65, 96.42, 23.11), "energy": (93.93, 78.20, 97.02, 18.94)},
    "wikitext2": {"msp": (93.84, 86.34, 97.56, 19.55), "energy": (94.41, 86.23, 97.87, 16.85)},
}
TEXT_METRICS = {
    "auroc": "AUROC",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
    "fpr95_ood_side": "FPR95",
}
_MISSING = "Not measured yet.\n"
_ENOUGH = 3  # seeds for an interval
_ENDS = 3  # classes at either end of a long tail

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> what each seed measured


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends."""
    makers = {
        "objectives": _objectives,
        "open-set": _open_set,
        "newsgroups-outliers": _newsgroups,
        "imbalance": _imbalance,
    }
    found = {}
    for name, make in makers.items():
        runs = arms(name)
        found[name] = f"{_about(runs)}\n\n{make(runs)}" if runs else _MISSING
    found["spread"] = _spread()
    return found


def filled(page: str) -> str:
    """The page with every block of today."""
    return fill(page, blocks(), "docs/choosing-an-objective.md")


def arms(name: str) -> Runs:
    """What every arm measured, seed by seed; only arms that every seed finished."""
    path = RESULTS / name / "study.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text())["arms"]
    seeds = sorted(set.intersection(*(set(arm["by_seed"]) for arm in found.values())))
    return {name: [arm["by_seed"][seed] for seed in seeds] for name, arm in found.items()}


def _spread() -> str:
    """What the choice of the generated arm's spread saw."""
    path = RESULTS / "objectives" / "generated.json"
    if not path.exists():
        return _MISSING
    card = json.loads(path.read_text())
    spreads = sorted(card["measured"], key=float)
    rows = [["could be of spread 1", *(f"{card['measured'][spread]:.1%}" for spread in spreads)]]
    return f"Chosen: {card['spread']:g}.\n\n" + table(["spread", *spreads], rows)


def _about(runs: Runs) -> str:
    first = next(iter(runs.values()))
    counts = first[0]["counts"]
    seeds = "one seed" if len(first) == 1 else f"{len(first)} seeds"
    return f"{counts['train_id']:,} training inputs, {seeds}."


def _mean(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    text = f"{scale * float(np.mean(values)):.{digits}f}"
    if len(values) < _ENOUGH:
        return text
    low, high = student_interval(values)
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def _areas(seeds: Sequence[Mapping[str, Any]], detector: str, sets: Sequence[str]) -> list[float]:
    """AUROC, a mean over the sets, seed by seed."""
    return [
        float(np.mean([seed["metrics"][ood][detector]["auroc"] for ood in sets])) for seed in seeds
    ]


def _objectives(runs: Runs) -> str:
    def rows(sets: Sequence[str]) -> list[list[str]]:
        return [
            [
                f"`{arm}`",
                _mean([seed["accuracy"] for seed in seeds]),
                *(_mean(_areas(seeds, detector, sets)) for detector in DETECTORS),
            ]
            for arm, seeds in runs.items()
        ]

    header = ["arm", "accuracy", *(f"`{name}`" for name in DETECTORS)]
    cells = [str(PUBLISHED_MNIST.get(name, "–")) for name in DETECTORS]
    published = ["`cross_entropy`, published", "", *cells]
    return (
        "AUROC against MNIST:\n\n"
        + table(header, [*rows(["mnist"]), published])
        + "\nAUROC against notMNIST:\n\n"
        + table(header, rows(["notmnist"]))
    )


def _open_set(runs: Runs) -> str:
    sets = ("omniglot", "mnist_noise", "noise")
    rows = []
    for arm, seeds in runs.items():
        for detector in ("energy", "vmdls_b", "vmdls"):
            cells = [
                " / ".join(
                    _mean([seed["open_set"][ood][detector][source] for seed in seeds], 1, 3)
                    for source in ("train", "cal")
                )
                for ood in sets
            ]
            areas = _mean(_areas(seeds, detector, sets))
            accuracy = _mean([seed["accuracy"] for seed in seeds])
            rows.append([f"`{arm}`", f"`{detector}`", accuracy, *cells, areas])
    for name, values in PUBLISHED_OPEN_SET.items():
        rows.append([f"{name}, published", "", "", *(f"{value:.3f}" for value in values), ""])
    header = ["arm", "score", "accuracy", "Omniglot", "MNIST-noise", "Noise", "AUROC, mean"]
    return table(header, rows)


def _newsgroups(runs: Runs) -> str:
    rows = []
    for arm, seeds in runs.items():
        for detector in ("msp", "energy"):
            cells = []
            for metric in TEXT_METRICS:
                values = [
                    float(np.mean([ood[detector][metric] for ood in seed["metrics"].values()]))
                    for seed in seeds
                ]
                cells.append(_mean(values))
            accuracy = _mean([seed["accuracy"] for seed in seeds])
            rows.append([f"`{arm}`", f"`{detector}`", accuracy, *cells])
            known = PUBLISHED_TEXT.get(arm, {}).get(detector)
            if known:
                rows.append([f"`{arm}`, published", f"`{detector}`", "", *map(str, known)])
    return table(["outliers", "score", "accuracy", *TEXT_METRICS.values()], rows)


def _imbalance(runs: Runs) -> str:
    rows = []
    for arm, seeds in runs.items():
        ends = [
            _mean([float(np.mean(seed["recalls"][part])) for seed in seeds])
            for part in (slice(_ENDS), slice(-_ENDS, None))
        ]
        alarms = [
            _mean(
                [
                    float(np.mean(seed["false_alarms"]["mahalanobis"][kind][-_ENDS:]))
                    for seed in seeds
                ]
            )
            for kind in ("pooled", "by_class")
        ]
        areas = [
            _mean(_areas(seeds, detector, ("mnist", "notmnist")))
            for detector in ("msp", "energy", "gda_density")
        ]
        drift = _mean([seed["prior_drift"] for seed in seeds], 1, 3)
        accuracy = _mean([seed["accuracy"] for seed in seeds])
        rows.append([f"`{arm}`", accuracy, *ends, drift, *areas, *alarms])
    header = [
        *("arm", "accuracy", "recall, 3 largest classes", "recall, 3 smallest", "prior drift"),
        *("AUROC `msp`", "`energy`", "`gda_density`"),
        *("false alarms on the 3 smallest, one threshold", "a threshold by class"),
    ]
    return table(header, rows)


def draw(path: Path) -> None:
    """AUROC of every arm and detector, a mean over MNIST and notMNIST, as a map of colours."""
    from matplotlib.figure import Figure

    runs = arms("objectives")
    names = list(runs)
    values = np.array(
        [
            [np.mean(_areas(runs[arm], detector, ("mnist", "notmnist"))) for detector in DETECTORS]
            for arm in names
        ]
    )
    figure = Figure(figsize=(8.4, 0.42 * len(names) + 1.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * values, vmin=50, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(DETECTORS)), DETECTORS, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(*values.shape):
        value = 100 * values[row, column]
        colour = "black" if value > 80 else "white"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="AUROC, mean of MNIST and notMNIST, %")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(PICTURE)
