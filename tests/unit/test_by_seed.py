"""Figures of every seed: gathered, written and read again; intervals against scipy's own."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from training.evaluation.by_seed import (
    METRICS,
    BySeed,
    gather_by_seed,
    read_by_seed,
    write_by_seed,
)
from training.evaluation.intervals import student_interval
from training.evaluation.metrics import evaluate_scores
from training.evaluation.records import DetectorRecord, OodSet, Report, Row


def report_of(seed: int, sets: tuple[str, ...] = ("near", "far")) -> Report:
    rng = np.random.default_rng(seed)
    detector = DetectorRecord("msp", "", 0.0, 0.95, 100, (0.9, 0.99))
    rows = [
        Row(
            name,
            "msp",
            evaluate_scores(rng.normal(0, 1, 80), rng.normal(1, 1, 60), 2.0),
            (0.0, 1.0),
        )
        for name in sets
    ]
    return Report(
        title="t",
        bundle="b",
        test_accuracy=0.5 + seed / 100,
        counts={},
        seeds=(seed,),
        config={},
        libraries={},
        machine={},
        detectors=(detector,),
        ood_sets=tuple(OodSet(name) for name in sets),
        rows=tuple(rows),
    )


def test_every_seed_keeps_its_figures(tmp_path: Path) -> None:
    reports = [report_of(seed) for seed in (3, 1, 4)]
    found = read_by_seed(write_by_seed(tmp_path, gather_by_seed(reports)))
    assert found.seeds == (3, 1, 4)
    assert found.accuracy == (0.53, 0.51, 0.54)
    for ood_set in ("near", "far"):
        for name in METRICS:
            for report, value in zip(reports, found.metrics[ood_set]["msp"][name], strict=True):
                row = report.row(ood_set, "msp")
                assert row is not None
                assert value == pytest.approx(getattr(row.metrics, name), abs=1e-6)


def test_means_are_over_sets_first_and_seeds_second() -> None:
    found = BySeed(
        (0, 1),
        (0.5, 0.6),
        {
            "a": {"msp": {"auroc": (0.6, 0.8)}},
            "b": {"msp": {"auroc": (0.7, 0.5)}},
            "c": {"msp": {"auroc": (0.0, 0.0)}},
        },
    )
    assert found.macro("msp", "auroc", ("a", "b")) == pytest.approx((0.65, 0.65))
    mean, (low, high) = found.interval("msp", "auroc", ("a", "c"))
    assert mean == pytest.approx(0.35)
    half = stats.t(1).ppf(0.975) * np.std([0.3, 0.4], ddof=1) / np.sqrt(2)
    assert (low, high) == pytest.approx((max(0.0, 0.35 - half), 0.35 + half))


def test_reports_of_other_sets_do_not_mix() -> None:
    with pytest.raises(ValueError, match="far"):
        gather_by_seed([report_of(0), report_of(1, ("near",))])


def test_the_interval_is_the_students_one() -> None:
    shares = [0.81, 0.84, 0.80, 0.86, 0.83]
    expected = stats.ttest_1samp(shares, 0.0).confidence_interval(0.95)
    assert student_interval(shares) == pytest.approx((expected.low, expected.high))
    assert student_interval([0.99, 1.0, 0.9])[1] == 1.0
    with pytest.raises(ValueError, match="at least two"):
        student_interval([0.9])
