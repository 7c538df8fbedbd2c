"""Clean against corrupted test-ID: what a corruption report holds.  Higher score = more OOD.

A detector is judged on every kind of corruption at every severity; a severity is described by
the mean over the kinds and by how far they lie apart.  Source of the protocol: FSSD,
arXiv:2012.12682.  All figures are shares in 0..1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

ACCURACY = "accuracy"  # what the classifier gets right, beside the detectors' AUROC


@dataclass(frozen=True)
class CorruptionCell:
    """One kind at one severity."""

    kind: str
    severity: int
    accuracy: float
    auroc: Mapping[str, float]  # detector -> clean (ID) against corrupted (OOD)

    def value(self, name: str) -> float:
        """The AUROC of a detector, or ACCURACY."""
        return self.accuracy if name == ACCURACY else self.auroc[name]


@dataclass(frozen=True)
class Spread:
    """One figure over all kinds at one severity."""

    severity: int
    mean: float
    deviation: float  # sample standard deviation over the kinds
    lowest: float
    lowest_kind: str
    highest: float
    highest_kind: str


@dataclass(frozen=True)
class CorruptionReport:
    """Everything a corruption report says.  Raises ValueError unless every cell is there once
    and has every detector."""

    title: str
    bundle: str  # "name/version"
    primary: str  # the detector that decides by default
    data: str  # where test-ID came from
    counts: Mapping[str, int]  # detector or ACCURACY -> images in each cell
    seed: int  # of the corruptions
    clean_accuracy: float
    detectors: tuple[str, ...]
    kinds: tuple[str, ...]
    severities: tuple[int, ...]
    cells: tuple[CorruptionCell, ...]
    spreads: Mapping[str, tuple[Spread, ...]]  # detector or ACCURACY -> one a severity
    libraries: Mapping[str, str]
    machine: Mapping[str, str]
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = {(kind, severity) for kind in self.kinds for severity in self.severities}
        found = [(cell.kind, cell.severity) for cell in self.cells]
        if len(found) != len(expected) or set(found) != expected:
            raise ValueError(f"cells lack or repeat {sorted(set(found) ^ expected)}")
        for cell in self.cells:
            if set(cell.auroc) != set(self.detectors):
                odd = sorted(set(cell.auroc) ^ set(self.detectors))
                raise ValueError(f"{cell.kind}, severity {cell.severity}: lacks or adds {odd}")

    def at(self, kind: str, severity: int) -> CorruptionCell:
        """One cell; kind and severity are of this report."""
        return next(c for c in self.cells if (c.kind, c.severity) == (kind, severity))


def spread_over_kinds(
    cells: Sequence[CorruptionCell], severity: int, figure: Callable[[CorruptionCell], float]
) -> Spread:
    """One figure of the cells of one severity, at least two kinds of them."""
    values = {cell.kind: figure(cell) for cell in cells if cell.severity == severity}
    lowest, highest = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return Spread(
        severity=severity,
        mean=float(np.mean(list(values.values()))),
        deviation=float(np.std(list(values.values()), ddof=1)),
        lowest=values[lowest],
        lowest_kind=lowest,
        highest=values[highest],
        highest_kind=highest,
    )


def all_spreads(
    cells: Sequence[CorruptionCell], detectors: Sequence[str], severities: Sequence[int]
) -> dict[str, tuple[Spread, ...]]:
    """Accuracy first, then every detector's AUROC."""

    def of(name: str) -> tuple[Spread, ...]:
        return tuple(
            spread_over_kinds(cells, severity, lambda cell: cell.value(name))
            for severity in severities
        )

    return {name: of(name) for name in (ACCURACY, *detectors)}


def read_corruption_report(path: Path) -> CorruptionReport:
    """report.json -> CorruptionReport.  Raises pydantic.ValidationError on anything else."""
    return TypeAdapter(CorruptionReport).validate_json(path.read_bytes())
