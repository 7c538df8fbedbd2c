"""Every seed's own figures beside a report of means: by_seed.json.  Shares in 0..1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from training.evaluation.intervals import student_interval
from training.evaluation.records import Report, Row

BY_SEED_JSON = "by_seed.json"
METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_ood_side", "fpr95_id_side", "id_acceptance")


@dataclass(frozen=True)
class BySeed:
    """metrics: OOD set -> detector -> field of OodMetrics -> one value a seed."""

    seeds: tuple[int, ...]
    accuracy: tuple[float, ...]
    metrics: dict[str, dict[str, dict[str, tuple[float, ...]]]]

    def macro(self, detector: str, metric: str, sets: Sequence[str]) -> tuple[float, ...]:
        """The mean over `sets`, one value a seed."""
        values = [self.metrics[ood_set][detector][metric] for ood_set in sets]
        return tuple(math.fsum(each) / len(each) for each in zip(*values, strict=True))

    def interval(
        self, detector: str, metric: str, sets: Sequence[str]
    ) -> tuple[float, tuple[float, float]]:
        """Mean over seeds of `macro` and its 95 % interval; ValueError of a single seed."""
        values = self.macro(detector, metric, sets)
        return math.fsum(values) / len(values), student_interval(values)


def gather_by_seed(reports: Sequence[Report]) -> BySeed:
    """Reports of one seed each; ValueError where one lacks a set or a detector of the first."""
    metrics: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {}
    for row in reports[0].rows:
        same = [_same_row(report, row) for report in reports]
        metrics.setdefault(row.ood_set, {})[row.detector] = {
            name: tuple(round(float(getattr(each.metrics, name)), 6) for each in same)
            for name in METRICS
        }
    accuracies = tuple(report.test_accuracy or 0.0 for report in reports)
    return BySeed(tuple(seed for report in reports for seed in report.seeds), accuracies, metrics)


def write_by_seed(folder: Path, found: BySeed) -> Path:
    """Into `folder`, which exists."""
    path = folder / BY_SEED_JSON
    path.write_bytes(TypeAdapter(BySeed).dump_json(found, indent=1) + b"\n")
    return path


def read_by_seed(path: Path) -> BySeed:
    """What `write_by_seed` wrote; ValueError where it is anything else."""
    return TypeAdapter(BySeed).validate_json(path.read_bytes())


def _same_row(report: Report, row: Row) -> Row:
    found = report.row(row.ood_set, row.detector)
    if found is None:
        raise ValueError(f"seeds {report.seeds} have no {row.detector} on {row.ood_set}")
    return found
