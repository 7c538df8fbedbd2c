"""The table of the disambiguation study in docs/active-learning.md and docs/results.md:
python -m benchmarks.disambiguation_tables

Out of benchmarks/results/disambiguation/study.json; per cent, means over the seeds that every arm
has, with their 95 % Student interval.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.active_tables import half_interval
from benchmarks.page_blocks import fill, table
from training.evaluation.canvas import legend_below, ood_style, panel_grid, save_png

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "active-learning.md"
PICTURE = ROOT / "docs" / "disambiguation.png"
RESULTS = ROOT / "benchmarks" / "results" / "disambiguation" / "study.json"
BLOCK = "disambiguation"
_SCORES = {
    "entropy": "entropy of one softmax",
    "id_kde": "density of ID, kernels",
    "id_gda": "density of ID, Gaussians",
    "all_kde": "density of everything, kernels",
    "all_mixed": "density of everything, Gaussians and kernels",
    "mutual_information": "mutual information of the ensemble",
}
_DRAWN = ("entropy", "id_gda", "all_mixed", "mutual_information")
_SETS = {
    "ambiguous": "blends of two digits",
    "exposed": "shown OOD (garments)",
    "notmnist": "new OOD: letters",
    "omniglot": "new OOD: characters",
    "noise": "new OOD: noise",
}


def measured() -> dict[str, Any]:
    """study.json."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def summary(found: Mapping[str, Any]) -> str:
    """What was measured, and its two tables."""
    arms = found["arms"]
    seeds = _seeds(found)
    study = next(iter(arms[next(iter(arms))]["by_seed"].values()))["config"]["study"]
    about = (
        f"Seeds {', '.join(seeds)}; {study['train_count']:,} digits and {study['exposed_count']:,} "
        f"garments to train on, {study['test_count']:,} inputs of each set to judge; ensembles of "
        f"{study['members']} small LeNets, {study['recipe']['steps']} steps each. AUROC of test-ID "
        "against each set, per cent; intervals are 95 % Student intervals over the seeds. "
        f"Made on {found['machine']['processor']}, commit {found['machine']['commit']}."
    )
    columns = ["arm", "score", *_SETS.values(), "new against shown OOD"]
    rows = []
    for name, arm in arms.items():
        for score, words in _SCORES.items():
            areas = [
                _mean([arm["by_seed"][seed]["auroc"][score][data] for seed in seeds])
                for data in _SETS
            ]
            new = _mean([arm["by_seed"][seed]["new"][score] for seed in seeds])
            rows.append([f"`{name}`", words, *areas, new])
    ranked = ["arm", "what", "accuracy", *(_SCORES[score] for score in _followed(found))]
    order = [
        [
            f"`{name}`",
            arm["what"],
            _mean([arm["by_seed"][seed]["accuracy"] for seed in seeds]),
            *(
                _mean([arm["by_seed"][seed]["follows"][score] for seed in seeds], 1.0, 2)
                for score in _followed(found)
            ),
        ]
        for name, arm in arms.items()
    ]
    parts = [
        about,
        table(columns, rows),
        "Does the ensemble's mutual information rank all these inputs as a density does? "
        "Spearman's correlation with each:",
        table(ranked, order),
    ]
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def filled(page: str) -> str:
    """The page with the block of today."""
    return fill(page, {BLOCK: summary(measured())}, "docs/active-learning.md")


def draw(path: Path) -> None:
    """AUROC of every set under four scores, one panel an arm."""
    found = measured()
    seeds = _seeds(found)
    arms = found["arms"]
    figure, axes = panel_grid(
        len(arms), "Is it OOD, is it new, is it ambiguous?", columns=2, panel=(4.4, 2.6)
    )
    places = np.arange(len(_SETS))
    handles = []
    for ax, (name, arm) in zip(axes, arms.items(), strict=True):
        handles = []
        for position, score in enumerate(_DRAWN):
            values = np.array(
                [[arm["by_seed"][s]["auroc"][score][data] for data in _SETS] for s in seeds]
            )
            colour, _ = ood_style(position)
            shift = (position - (len(_DRAWN) - 1) / 2) * 0.14
            low, high = 100 * values.min(0), 100 * values.max(0)
            ax.vlines(places + shift, low, high, color=colour, linewidth=1.5)
            (dots,) = ax.plot(
                places + shift, 100 * values.mean(0), "o", color=colour, label=_SCORES[score]
            )
            handles.append(dots)
        ax.axhline(50, color="#6B7280", linewidth=0.8)
        ax.set_xticks(places, list(_SETS), fontsize=7)
        ax.set(ylim=(0, 103), title=name)
        ax.set_ylabel("AUROC, %", fontsize=8)
    legend_below(figure, handles, columns=2)
    save_png(figure, path)


def _followed(found: Mapping[str, Any]) -> list[str]:
    first = next(iter(found["arms"].values()))["by_seed"]
    return list(next(iter(first.values()))["follows"])


def _seeds(found: Mapping[str, Any]) -> list[str]:
    every = (set(arm["by_seed"]) for arm in found["arms"].values())
    return sorted(set.intersection(*every), key=int)


def _mean(values: list[float], scale: float = 100.0, digits: int = 1) -> str:
    mean = scale * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {scale * half_interval(values):.{digits}f}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(PICTURE)
