"""The figures of docs/method-notes.md are those of the committed results."""

import json
import re
from pathlib import Path

import pytest

from training.evaluation.report import read_report

ROOT = Path(__file__).parents[2]
NOTES = (ROOT / "docs" / "method-notes.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("detector", "printed"),
    [
        ("fssd_ensemble", r"equal weights \| none \| ([\d.]+)"),
        ("fssd_ensemble_learnt", r"jigsaw, pixelate \| ([\d.]+)"),
        ("fssd_density", r"log-distances \| none \| ([\d.]+)"),
        ("mahalanobis_ensemble", r"takes the mean: ([\d.]+) against MNIST"),
        ("mahalanobis_ensemble_learnt", r"proxies give ([\d.]+\d)"),
        ("combined", r"which the rule does not read: ([\d.]+\d)"),
    ],
)
def test_benchmark_figures(detector: str, printed: str) -> None:
    row = read_report(RESULTS / "fashion-mnist" / "report.json").row("mnist", detector)
    assert row is not None
    (figure,) = re.findall(printed, NOTES)
    assert figure == f"{100 * row.metrics.auroc:.1f}"


def test_figures_of_the_choice_of_combined() -> None:
    means = json.loads((RESULTS / "combined_members.json").read_text())["means"]
    table = dict(re.findall(r"^\| \**([^|]+?)\** \| (\d\d\.\d\d) \|$", NOTES, re.MULTILINE))
    assert list(table.values()) == [
        f"{100 * means[name]:.2f}"
        for name in (
            "mean of two",
            "mean of three",
            "largest of three",
            "largest of two",
            "mahalanobis_ensemble",
            "energy",
        )
    ]
    assert max(means, key=means.get) == "mean of two"
