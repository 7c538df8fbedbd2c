"""What a report holds: frozen, JSON-serialisable records.  Higher score = more OOD.

Shares and metrics are in 0..1; pages show them in per cent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from pydantic import JsonValue

from training.evaluation.calibration import CalibrationRow, Uniformity
from training.evaluation.metrics import OodMetrics

# |ours - published| above this share must be explained
PUBLISHED_TOLERANCE = 0.03
# |AUROC - 0.5| above this on a control set says that a detector reads encoding artefacts
CONTROL_TOLERANCE = 0.05

_METRIC_NAMES = frozenset(field.name for field in fields(OodMetrics))


@dataclass(frozen=True)
class DetectorRecord:
    """One detector as the bundle serves it."""

    name: str
    description: str  # one sentence: what the score measures, what it needs
    threshold: float
    id_acceptance: float  # nominal
    calibration_size: int
    acceptance_interval: tuple[float, float]  # 90 %, of the true acceptance
    reference: str = ""  # arXiv number or citation
    cost: str = ""


@dataclass(frozen=True)
class OodSet:
    """One test set.  `control`: ID images encoded again, which nothing should tell from ID."""

    name: str
    description: str = ""
    role: Literal["ood", "control"] = "ood"


@dataclass(frozen=True)
class Published:
    """A number from the literature for the same ID set, OOD set and detector."""

    metric: str  # a field of OodMetrics
    value: float  # share in 0..1
    source: str
    explanation: str = ""  # why ours differs by more than PUBLISHED_TOLERANCE

    def __post_init__(self) -> None:
        if self.metric not in _METRIC_NAMES:
            raise ValueError(f"{self.metric!r} is no metric; known: {sorted(_METRIC_NAMES)}")
        if not 0 <= self.value <= 1:
            raise ValueError(
                f"{self.value} is no share in 0..1 (published per cent? divide by 100)"
            )


@dataclass(frozen=True)
class Row:
    """One detector on one OOD set."""

    ood_set: str
    detector: str
    metrics: OodMetrics
    auroc_interval: tuple[float, float]  # 95 %, bootstrap over these test sets
    auroc_by_seed: tuple[float, ...] = ()  # one a trained network, where there are several
    published: tuple[Published, ...] = ()

    def difference(self, published: Published) -> float:
        """Ours minus the published number, share."""
        return float(getattr(self.metrics, published.metric)) - published.value

    def needs_explanation(self, published: Published) -> bool:
        """True when the difference is large and nobody said why."""
        large = abs(self.difference(published)) > PUBLISHED_TOLERANCE
        return large and not published.explanation


@dataclass(frozen=True)
class CalibrationRecord:
    """Does one detector's threshold hold on test-ID?"""

    detector: str
    rows: tuple[CalibrationRow, ...]
    p_values: Uniformity


@dataclass(frozen=True)
class Price:
    """What one detector costs on top of the classifier."""

    detector: str
    batch_size: int
    milliseconds_per_input: float
    ratio_to_classifier: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything report.json says.  Raises ValueError when rows name unknown sets or detectors,
    or one pair twice."""

    title: str
    bundle: str  # "name/version"
    test_accuracy: float | None  # of the classifier on test-ID; None without labels
    counts: Mapping[str, int]  # role or set name -> inputs
    seeds: tuple[int, ...]
    config: Mapping[str, JsonValue]
    libraries: Mapping[str, str]
    machine: Mapping[str, str]
    detectors: tuple[DetectorRecord, ...]
    ood_sets: tuple[OodSet, ...]
    rows: tuple[Row, ...]
    calibration: tuple[CalibrationRecord, ...] = ()
    price: tuple[Price, ...] = ()
    remarks: tuple[str, ...] = ()
    primary: str = ""  # the detector that decides by default

    def __post_init__(self) -> None:
        detectors = {detector.name for detector in self.detectors}
        sets = {ood_set.name for ood_set in self.ood_sets}
        pairs = [(row.ood_set, row.detector) for row in self.rows]
        if len(set(pairs)) != len(pairs):
            raise ValueError("rows repeat an (OOD set, detector) pair")
        for ood_set, detector in pairs:
            if ood_set not in sets or detector not in detectors:
                raise ValueError(f"row ({ood_set}, {detector}): set or detector is not listed")
        named = {record.detector for record in (*self.calibration, *self.price)}
        if self.primary:
            named.add(self.primary)
        if named - detectors:
            raise ValueError(f"detectors not listed: {sorted(named - detectors)}")

    def row(self, ood_set: str, detector: str) -> Row | None:
        """That cell of the table, or None."""
        for row in self.rows:
            if (row.ood_set, row.detector) == (ood_set, detector):
                return row
        return None

    def sets(self, role: Literal["ood", "control"]) -> list[OodSet]:
        """The sets of one role, in order."""
        return [ood_set for ood_set in self.ood_sets if ood_set.role == role]

    def macro_auroc(self, detector: str) -> float | None:
        """Mean AUROC over the OOD sets, controls left out; None when a set is missing."""
        rows = [self.row(ood_set.name, detector) for ood_set in self.sets("ood")]
        areas = [row.metrics.auroc for row in rows if row is not None]
        return sum(areas) / len(areas) if areas and len(areas) == len(rows) else None

    def flagged_controls(self) -> list[Row]:
        """Rows on control sets whose AUROC is far from 0.5: the detector reads artefacts."""
        controls = {ood_set.name for ood_set in self.sets("control")}
        return [
            row
            for row in self.rows
            if row.ood_set in controls and abs(row.metrics.auroc - 0.5) > CONTROL_TOLERANCE
        ]
