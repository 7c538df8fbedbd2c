"""The figures of docs/method-notes.md are those of the committed results."""

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
    ],
)
def test_benchmark_figures(detector: str, printed: str) -> None:
    row = read_report(RESULTS / "fashion-mnist" / "report.json").row("mnist", detector)
    assert row is not None
    (figure,) = re.findall(printed, NOTES)
    assert figure == f"{100 * row.metrics.auroc:.1f}"
