"""The tables and pictures of docs/choosing-an-objective.md:  python -m benchmarks.study_tables

Out of benchmarks/results/<study>/study.json; per cent, means over seeds and, with three seeds or
more, half the width of their 95 % Student interval.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

from benchmarks.page_blocks import fill, table
from training.evaluation.canvas import panel_grid, save_png

matplotlib.use("Agg")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "choosing-an-objective.md"
PICTURE = ROOT / "docs" / "choosing-an-objective.png"
PLANES = ROOT / "docs" / "vmdls-planes.png"
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
# macro-F1 against Omniglot, threshold from train, two latent dimensions
PUBLISHED_LOSSES = {
    "all": 0.969,
    "margin_1": 0.941,
    "without_distancing": 0.860,
    "without_kl": 0.935,
    "triplet": 0.858,
    "triplet_margin_1": 0.829,
}
# AUROC, AUPR-in, AUPR-out, FPR95: means over three sets, of generative outlier exposure
PUBLISHED_TEXT = {
    "none": {"msp": (82.06, 62.08, 88.74, 52.02), "energy": (89.35, 69.95, 94.56, 31.93)},
    "noise": {"msp": (93.22, 77.65, 96.42, 23.11), "energy": (93.93, 78.20, 97.02, 18.94)},
    "generated": {"msp": (93.02, 84.92, 96.89, 22.55), "energy": (95.11, 87.12, 98.03, 17.50)},
    "wikitext2": {"msp": (93.84, 86.34, 97.56, 19.55), "energy": (94.41, 86.23, 97.87, 16.85)},
}
# AUROC, a mean over Textures and the crops and resizes of LSUN and Tiny-ImageNet, same source
PUBLISHED_CIFAR = {
    ("none", "msp"): 91.74,
    ("none", "energy"): 93.03,
    ("noise", "msp"): 94.49,
    ("noise", "energy"): 97.36,
    ("generated", "msp"): 95.54,
    ("generated", "energy"): 95.51,
    ("photographs", "msp"): 98.56,
    ("photographs", "energy"): 98.63,
}
TEXT_METRICS = {
    "auroc": "AUROC",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
    "fpr95_ood_side": "FPR95",
}
_MISSING = "Not measured yet.\n"
_GENERATED = ("outlier_exposure_generated", "generated", "spread_", "count_")  # names of arms
_ENOUGH = 3  # seeds for an interval
_ENDS = 3  # classes at either end of a long tail

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> what each seed measured


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends."""
    makers = {
        "objectives": _objectives,
        "open-set": _open_set,
        "open-set-losses": _losses,
        "newsgroups-outliers": _newsgroups,
        "cifar10-finetunes": _finetunes,
        "dose-images": _dose_images,
        "dose-texts": _dose_texts,
        "imbalance": _imbalance,
        "binary-head": _binary_head,
        "latent-shape": _latent_shape,
    }
    found = {}
    for name, make in makers.items():
        runs = arms(name)
        found[name] = f"{_about(runs)}\n\n{make(runs)}" if runs else _MISSING
    found["spread"] = _spread()
    found["gain"] = _gain()
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
    low, high = interval_of_mean(values)
    return f"{text} ± {scale * (high - low) / 2:.{digits}f}"


def _areas(seeds: Sequence[Mapping[str, Any]], detector: str, sets: Sequence[str]) -> list[float]:
    """AUROC, a mean over the sets, seed by seed."""
    return [
        float(np.mean([seed["metrics"][ood][detector]["auroc"] for ood in sets])) for seed in seeds
    ]


def _against_first(
    runs: Runs, measures: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], Sequence[float]]]
) -> str:
    """Points that each arm is above the first one, same seeds: what a seed does to both goes out.

    `measures`: name -> the values of an arm, seed by seed, 0..1.
    """
    (first, plain), *others = runs.items()
    rows = []
    for arm, seeds in others:
        cells = []
        for values in measures.values():
            pairs = zip(values(plain), values(seeds), strict=True)
            cells.append(_gain_cell([100 * (after - before) for before, after in pairs]))
        rows.append([f"`{arm}`", *cells])
    return f"\nPoints above `{first}`, same seeds:\n\n" + table(["arm", *measures], rows)


def _gain_cell(points: Sequence[float]) -> str:
    text = f"{np.mean(points):+.1f}"
    if len(points) < _ENOUGH:
        return text
    low, high = interval_of_mean(points)
    return f"{text} ± {(high - low) / 2:.1f}"


def _accuracies(seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    return [seed["accuracy"] for seed in seeds]


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
        + _against_first(
            runs,
            {"accuracy": _accuracies}
            | {
                f"`{name}`": partial(_areas, detector=name, sets=("mnist", "notmnist"))
                for name in DETECTORS
            },
        )
    )


def _open_set(runs: Runs) -> str:
    sets = ("omniglot", "mnist_noise", "noise")
    rows = []
    for arm, seeds in runs.items():
        for detector in ("energy", "vmdls_b", "vmdls"):
            cells = [
                " / ".join(
                    _mean([seed["open_set"][ood][detector][source] for seed in seeds], 1, 3)
                    for source in ("train", "cal", "best")
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


def _finetunes(runs: Runs) -> str:
    """Noise, of a kind that one arm was trained on, apart from the mean."""
    detectors, pictures = ("msp", "energy", "knn", "gda_density"), ("tinyimagenet", "signs")
    rows = []
    for arm, seeds in runs.items():
        for detector in detectors:
            rows.append(
                [
                    f"`{arm}`",
                    f"`{detector}`",
                    _mean(_accuracies(seeds)),
                    _mean(_areas(seeds, detector, pictures)),
                    *(_mean(_areas(seeds, detector, [ood])) for ood in (*pictures, "noise")),
                ]
            )
            known = PUBLISHED_CIFAR.get((arm, detector))
            if known:
                rows.append([f"`{arm}`, published", f"`{detector}`", "", str(known), "", "", ""])
    header = ["outliers", "score", "accuracy", "AUROC, mean of pictures"]
    return table([*header, "Tiny-ImageNet", "signs", "noise"], rows)


def _imbalance(runs: Runs) -> str:
    rows = []
    for arm, seeds in runs.items():
        ends = [
            _mean([float(np.mean(seed["recalls"][part])) for seed in seeds])
            for part in (slice(_ENDS), slice(-_ENDS, None))
        ]
        alarms = [_mean(_alarms(seeds, kind)) for kind in ("pooled", "by_class")]
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
    sets = ("mnist", "notmnist")
    return table(header, rows) + _against_first(
        runs,
        {
            "accuracy": _accuracies,
            "recall, 3 smallest": lambda seeds: [_smallest(seed["recalls"]) for seed in seeds],
            "AUROC `msp`": partial(_areas, detector="msp", sets=sets),
            "`energy`": partial(_areas, detector="energy", sets=sets),
            "`gda_density`": partial(_areas, detector="gda_density", sets=sets),
            "false alarms on the 3 smallest, one threshold": partial(_alarms, kind="pooled"),
            "a threshold by class": partial(_alarms, kind="by_class"),
        },
    )


def _smallest(by_class: Sequence[float]) -> float:
    return float(np.mean(by_class[-_ENDS:]))


def _alarms(seeds: Sequence[Mapping[str, Any]], kind: str) -> list[float]:
    """On the smallest classes."""
    return [_smallest(seed["false_alarms"]["mahalanobis"][kind]) for seed in seeds]


def _losses(runs: Runs) -> str:
    def f1(seeds: Sequence[Mapping[str, Any]], layers: str | None = None) -> str:
        """With all layers, or those named; threshold from train / from cal-ID."""
        means = []
        for source in ("train", "cal"):
            values = []
            for seed in seeds:
                found = seed["layer_ensembles"]
                key = next(iter(found)) if layers is None else layers
                values.append(found[key]["omniglot"][f"f1_{source}"])
            means.append(_mean(values, 1, 3))
        return " / ".join(means)

    ensembles = list(next(iter(runs.values()))[0]["layer_ensembles"])
    header = ["losses", "accuracy", "published", *(f"`{layers}`" for layers in ensembles)]
    rows = [
        [
            f"`{arm}`",
            _mean([seed["accuracy"] for seed in seeds]),
            f"{PUBLISHED_LOSSES[arm]:.3f}" if arm in PUBLISHED_LOSSES else "–",
            *(f1(seeds, layers) for layers in ensembles),
        ]
        for arm, seeds in runs.items()
    ]
    return table(header, rows)


def _dose_images(runs: Runs) -> str:
    detectors, sets = ("msp", "energy", "mahalanobis", "kde"), ("mnist", "notmnist")
    rows = [
        [
            f"`{arm}`",
            _mean([seed["accuracy"] for seed in seeds]),
            *(_mean(_areas(seeds, name, [ood])) for ood in sets for name in detectors),
        ]
        for arm, seeds in runs.items()
    ]
    header = [f"`{name}`, {ood}" for ood in ("MNIST", "notMNIST") for name in detectors]
    return table(["outliers", "accuracy", *header], rows)


def _dose_texts(runs: Runs) -> str:
    sets = ("reuters52", "multi30k", "wmt")
    rows = [
        [
            f"`{arm}`",
            _mean([seed["accuracy"] for seed in seeds]),
            *(_mean(_areas(seeds, name, sets)) for name in ("msp", "energy")),
        ]
        for arm, seeds in runs.items()
    ]
    return table(["outliers", "accuracy", "AUROC `msp`", "AUROC `energy`"], rows)


def _binary_head(runs: Runs) -> str:
    """AUROC of every family; the first was trained on."""
    sets = list(next(iter(runs.values()))[0]["metrics"])
    rows = []
    for arm, seeds in runs.items():
        for detector in ("binary_head", "overall_density", "gda_density", "energy"):
            if detector not in seeds[0]["metrics"][sets[0]]:
                continue
            areas = [_mean(_areas(seeds, detector, [ood])) for ood in sets]
            accuracy = _mean([seed["accuracy"] for seed in seeds])
            rows.append([f"`{arm}`", accuracy, f"`{detector}`", *areas])
    return table(["arm", "accuracy", "score", *sets], rows)


def _latent_shape(runs: Runs) -> str:
    def of(seeds: Sequence[Mapping[str, Any]], *path: str | int) -> list[float]:
        found: list[Any] = [seed["latent_shape"] for seed in seeds]
        for step in path:
            found = [value[step] for value in found]
        return found

    rows = [
        [
            f"`{arm}`",
            _mean([seed["accuracy"] for seed in seeds]),
            *(_mean(of(seeds, "ood", "unseen", probe)) for probe in ("linear", "neighbours")),
            *(_mean(of(seeds, "ood", "mnist", probe)) for probe in ("linear", "neighbours")),
            _mean(of(seeds, "effective_rank"), 1),
            _mean(of(seeds, "class_cosine"), 1, 2),
            _mean(of(seeds, "within_share"), 1, 2),
            _mean(of(seeds, "alignment"), 1, 2),
            " / ".join(_mean(of(seeds, "stretch", place), 1, 2) for place in range(3)),
            " / ".join(
                _mean(of(seeds, "ood", ood, "spread"), 1, 2)
                for ood in ("unseen", "mnist", "photographs")
            ),
            _mean(_areas(seeds, "gda_density", ("unseen",))),
        ]
        for arm, seeds in runs.items()
    ]
    header = [
        *("arm", "accuracy", "unseen classes: linear probe", "5 neighbours"),
        *("MNIST's digits: linear probe", "5 neighbours", "effective rank"),
        *("cosine of class means", "share within classes", "alignment with `cross_entropy`"),
        *("stretch, 5 / 50 / 95 %", "spread of unseen / MNIST / photographs"),
        "AUROC `gda_density`, unseen",
    ]
    return table(header, rows)


def _gain() -> str:
    """Generated outliers against none, seed by seed."""
    rows = []
    for study, without, sets, detectors in (
        ("objectives", "cross_entropy", ("mnist", "notmnist"), ("msp", "energy", "gda_density")),
        ("dose-images", "none", ("mnist", "notmnist"), ("msp", "energy", "mahalanobis", "kde")),
        ("cifar10-finetunes", "none", ("tinyimagenet", "signs"), ("msp", "energy", "gda_density")),
        ("newsgroups-outliers", "none", ("reuters52", "multi30k", "wmt"), ("msp", "energy")),
    ):
        runs = arms(study)
        for arm in (name for name in runs if name.startswith(_GENERATED)):
            for detector in detectors:
                before = _areas(runs[without], detector, sets)
                after = _areas(runs[arm], detector, sets)
                gains = [100 * (b - a) for a, b in zip(before, after, strict=True)]
                each = " ".join(f"{gain:+.1f}" for gain in gains)
                rows.append([f"{study}, `{arm}`", f"`{detector}`", _gain_cell(gains), each])
    if not rows:
        return _MISSING
    return table(["study, outliers", "score", "points of mean AUROC", "seed by seed"], rows)


def interval_of_mean(values: Sequence[float], coverage: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean, not cut at 0 or 1."""
    half = stats.t.ppf((1 + coverage) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - half), float(np.mean(values) + half)


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


def draw_planes(path: Path) -> None:
    """The two latent dimensions of every loss: digits in colours, Omniglot's characters black."""
    runs = arms("open-set-losses")
    figure, panels = panel_grid(
        len(runs),
        "MNIST's digits and Omniglot (black) in two latent dimensions",
        columns=4,
        panel=(2.9, 2.9),
    )
    for axes, (arm, seeds) in zip(panels, runs.items(), strict=True):
        found = seeds[0]["plane"]
        points, ood = np.array(found["id"]), np.array(found["ood"]["omniglot"])
        axes.scatter(*points.T, c=found["labels"], cmap="tab10", s=7, linewidths=0)
        axes.scatter(*ood.T, c="black", s=5, marker="x", linewidths=0.5, alpha=0.5)
        low, high = np.quantile(np.concatenate([points, ood]), [0.005, 0.995], axis=0)
        pad = 0.08 * (high - low)
        axes.set_xlim(low[0] - pad[0], high[0] + pad[0])
        axes.set_ylim(low[1] - pad[1], high[1] + pad[1])
        axes.set_title(arm, fontsize=9)
    save_png(figure, path)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(PICTURE)
    if arms("open-set-losses"):
        draw_planes(PLANES)
