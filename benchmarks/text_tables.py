"""The tables of docs/text.md, out of committed results:  python -m benchmarks.text_tables

Those of a benchmark come from results/<name>/by_seed.json and report.json; per cent, means over
seeds and their 95 % Student interval.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.page_blocks import fill, table
from training.evaluation.by_seed import BY_SEED_JSON, BySeed, read_by_seed
from training.published import NEWSGROUPS_MEANS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "text.md"
RESULTS = ROOT / "benchmarks" / "results"
METRICS = {
    "auroc": "AUROC",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
    "fpr95_ood_side": "FPR95",
}
NEWSGROUPS = ("reuters52", "multi30k", "wmt")
SEQUENCES = ("unseen", "composition", "uniform", "repeats")
_MISSING = "Not measured yet.\n"


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends."""
    newsgroups, sequences = _results("newsgroups"), _results("sequences")
    return {
        "newsgroups: published": _beside_published(newsgroups) if newsgroups else _MISSING,
        "newsgroups: recipes": _recipes(newsgroups),
        "newsgroups: all": _every_score(newsgroups, NEWSGROUPS) if newsgroups else _MISSING,
        "sequences: all": _every_score(sequences, SEQUENCES) if sequences else _MISSING,
    }


def filled(page: str) -> str:
    """The page with every block of today."""
    return fill(page, blocks(), "docs/text.md")


def _results(name: str) -> BySeed | None:
    path = RESULTS / name / BY_SEED_JSON
    return read_by_seed(path) if path.exists() else None


def _beside_published(found: BySeed) -> str:
    rows = []
    for detector, published in NEWSGROUPS_MEANS.items():
        for name, title in METRICS.items():
            mean = sum(found.macro(detector, name, NEWSGROUPS)) / len(found.seeds)
            gap = f"{100 * (mean - published[name]):+.1f}"
            ours = _mean(found, detector, name, NEWSGROUPS)
            rows.append([f"`{detector}`", title, ours, f"{100 * published[name]:.2f}", gap])
    header = ["score", "metric", "ours, mean of three sets", "published", "gap"]
    return _about(found) + table(header, rows)


def _recipes(found: BySeed | None) -> str:
    path = RESULTS / "newsgroups_recipes.json"
    outcomes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if found is None or not outcomes:
        return _MISSING
    rows = [
        [
            "neither: the benchmark, its seed 0",
            f"{100 * found.accuracy[0]:.1f}",
            *(
                f"{100 * found.metrics[ood_set][score]['auroc'][0]:.1f}"
                for score in NEWSGROUPS_MEANS
                for ood_set in NEWSGROUPS
            ),
        ]
    ]
    for outcome in outcomes.values():
        areas = [
            f"{100 * outcome['auroc'][score][ood_set]:.1f}"
            for score in NEWSGROUPS_MEANS
            for ood_set in NEWSGROUPS
        ]
        rows.append([outcome["what"], f"{100 * outcome['accuracy']:.1f}", *areas])
    titles = [f"`{score}` {ood_set}" for score in NEWSGROUPS_MEANS for ood_set in NEWSGROUPS]
    return table(["changed", "accuracy", *titles], rows)


def _every_score(found: BySeed, sets: Sequence[str]) -> str:
    """Sorted by the mean AUROC over the sets, best first."""

    def mean_area(detector: str) -> float:
        return sum(found.macro(detector, "auroc", sets))

    ranked = sorted(found.metrics[sets[0]], key=mean_area, reverse=True)
    rows = [
        [
            f"`{detector}`",
            *(_mean(found, detector, name, sets) for name in METRICS),
            *(_mean(found, detector, "auroc", (ood_set,)) for ood_set in sets),
        ]
        for detector in ranked
    ]
    return _about(found) + table(["score", *METRICS.values(), *(f"AUROC {s}" for s in sets)], rows)


def _mean(found: BySeed, detector: str, metric: str, sets: Sequence[str]) -> str:
    if len(found.seeds) == 1:
        return f"{100 * found.macro(detector, metric, sets)[0]:.1f}"
    mean, (low, high) = found.interval(detector, metric, sets)
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _about(found: BySeed) -> str:
    seeds = ", ".join(map(str, found.seeds))
    accuracies = ", ".join(f"{100 * accuracy:.1f}" for accuracy in found.accuracy)
    return f"Seeds {seeds}; accuracy on test-ID by seed {accuracies} %.\n\n"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
