"""Scores and thresholds -> verdicts.  Pure.  Scores: higher = more OOD.

OOD is score > threshold, which for thresholds taken from the calibration scores is exactly
p_value <= 1 - id_acceptance.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.bundle import (
    FORWARD,
    ClassReference,
    DetectorSpec,
    Manifest,
    PValueColumns,
    class_references,
    p_values,
    threshold_at,
)
from service.errors import (
    AcceptanceOutOfReach,
    InvalidParameter,
    ScoreNotFinite,
    UnknownDetector,
)

Decision = Literal["ID", "OOD"]
LOGITS = "logits"
DECILES = 10


@dataclass(frozen=True)
class PlannedDetector:
    """One detector of a request: its score tensor, threshold and calibration scores (n,)."""

    spec: DetectorSpec
    threshold: float
    calibration: NDArray[np.float32]
    by_class: tuple[ClassReference, ...] | None = None  # of each predicted class; None: one for all

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class Plan:
    """What a request wants to know.  `deciding` is one of `detectors`."""

    class_names: Sequence[str]
    deciding: str
    detectors: tuple[PlannedDetector, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(d.name for d in self.detectors)

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        return tuple(d.threshold for d in self.detectors)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Tensors of the scores, in the order of the detectors."""
        return tuple(d.spec.output for d in self.detectors)

    @cached_property
    def graphs(self) -> tuple[str, ...]:
        """The graph files to run, the forward one first: it gives the label."""
        return tuple(dict.fromkeys((FORWARD, *(d.spec.graph for d in self.detectors))))

    @cached_property
    def by_class(self) -> bool:
        """Whether some detector holds each predicted class against its own calibration scores."""
        return any(detector.by_class is not None for detector in self.detectors)

    @cached_property
    def pooled(self) -> PValueColumns:
        """Of scores (D, m), whatever their class."""
        return PValueColumns([detector.calibration for detector in self.detectors])

    def outputs_of(self, graph: str) -> Sequence[str]:
        """Names of the tensors to fetch from one graph file."""
        return self._outputs_by_graph.get(graph, ())

    @cached_property
    def _outputs_by_graph(self) -> Mapping[str, Sequence[str]]:
        by_graph: dict[str, list[str]] = {FORWARD: [LOGITS]}
        for detector in self.detectors:
            by_graph.setdefault(detector.spec.graph, []).append(detector.spec.output)
        return by_graph


class DetectorVerdict(NamedTuple):
    score: float
    threshold: float
    p_value: float
    decision: Decision


class VerdictRow(Mapping[str, DetectorVerdict]):
    """What every detector of a plan says of one input, by name.

    Numbers stand in columns and become objects where one is asked for: most inputs are answered
    without.
    """

    __slots__ = ("names", "p_values", "scores", "thresholds")

    def __init__(
        self,
        names: tuple[str, ...],
        thresholds: tuple[float, ...],
        scores: list[float],
        p_values: list[float],
    ) -> None:
        """All in one order."""
        self.names = names
        self.thresholds = thresholds
        self.scores = scores
        self.p_values = p_values

    def __getitem__(self, name: str) -> DetectorVerdict:
        try:
            place = self.names.index(name)
        except ValueError:
            raise KeyError(name) from None
        score, threshold = self.scores[place], self.thresholds[place]
        return DetectorVerdict(
            score, threshold, self.p_values[place], "OOD" if score > threshold else "ID"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Verdict:
    """The answer for one input; `detectors` holds every requested one, `detector` decided."""

    label: str
    label_index: int
    confidence: float  # softmax probability of the label
    detector: str
    detectors: VerdictRow
    truncated: bool | None = None  # of a text: only its beginning was read

    @property
    def deciding(self) -> DetectorVerdict:
        return self.detectors[self.detector]


def make_plan(
    manifest: Manifest,
    calibration: Mapping[str, NDArray[np.float32]],
    detectors: Sequence[str] | None = None,
    id_acceptance: float | None = None,
    classes: Mapping[str, NDArray[np.int32]] | None = None,
) -> Plan:
    """Detectors None: all of the forward graph, the bundle's primary decides.
    Detectors named: these, and the first one decides.  Acceptance None: the bundle's own.
    `classes`: what was predicted for the calibration scores; None: one threshold for all classes.

    Raises UnknownDetector, InvalidParameter, AcceptanceOutOfReach.
    """
    if detectors is None:
        names = [spec.name for spec in manifest.forward_detectors()]
    else:
        names = list(dict.fromkeys(detectors))
    if not names:
        raise InvalidParameter("detectors is empty; leave it out to get all of them")
    if id_acceptance is not None and not 0 < id_acceptance < 1:
        raise InvalidParameter(f"id_acceptance is {id_acceptance}; it lies between 0 and 1")
    known = {spec.name: spec for spec in manifest.detectors}
    planned: list[PlannedDetector] = []
    for name in names:
        if name not in known:
            raise UnknownDetector(name, sorted(known))
        spec, scores = known[name], calibration[name]
        threshold = spec.threshold
        if id_acceptance is not None:
            threshold = threshold_at(scores, id_acceptance)
            if math.isinf(threshold):
                raise AcceptanceOutOfReach(name, id_acceptance, len(scores))
        references = None
        if classes is not None:
            acceptance = spec.id_acceptance if id_acceptance is None else id_acceptance
            count = len(manifest.class_names)
            references = class_references(scores, classes[name], count, acceptance)
        planned.append(PlannedDetector(spec, threshold, scores, references))
    deciding = manifest.policy.primary if detectors is None else names[0]
    return Plan(manifest.class_names, deciding, tuple(planned))


def decide(
    outputs: Mapping[str, NDArray[np.float32]], plan: Plan
) -> list[Verdict | ScoreNotFinite]:
    """logits (N, K) and each planned detector's scores (N,) -> N answers in order.

    An input with a NaN or an infinity in anything asked for gets ScoreNotFinite.
    """
    logits = outputs[LOGITS].astype(np.float64)
    labels, confidences = _classify(logits)
    columns = np.array([outputs[name] for name in plan.outputs])  # (D, N)
    rows = columns.T.tolist()
    ps, thresholds = _held_against(columns, labels, plan)
    broken = _non_finite_outputs(columns, logits, plan)
    answers: list[Verdict | ScoreNotFinite] = []
    for index, (label, confidence) in enumerate(zip(labels, confidences, strict=True)):
        if index in broken:
            answers.append(ScoreNotFinite(broken[index]))
            continue
        row = VerdictRow(plan.names, thresholds[index], rows[index], ps[index])
        answers.append(Verdict(plan.class_names[label], label, confidence, plan.deciding, row))
    return answers


def _held_against(
    columns: NDArray[np.float32], labels: Sequence[int], plan: Plan
) -> tuple[list[list[float]], Sequence[tuple[float, ...]]]:
    """Scores (D, N), labels (N,) -> of each input the p-values and the thresholds, (N, D)."""
    if not plan.by_class:
        return plan.pooled(columns).T.tolist(), [plan.thresholds] * len(labels)
    found = np.zeros_like(columns, dtype=np.float64)
    thresholds = np.zeros_like(columns, dtype=np.float64)
    predicted = np.asarray(labels)
    for place, detector in enumerate(plan.detectors):
        for label in set(labels):
            rows = predicted == label
            reference = ClassReference(detector.calibration, detector.threshold)
            if detector.by_class is not None:
                reference = detector.by_class[label]
            found[place, rows] = p_values(reference.scores, columns[place, rows])
            thresholds[place, rows] = reference.threshold
    return found.T.tolist(), [tuple(row) for row in thresholds.T.tolist()]


def ood_up_to(id_acceptance: float) -> float:
    """The largest p-value that is OOD at that acceptance, whatever threshold a caller asked for."""
    return 1 - id_acceptance + 1e-9  # 1 - 0.95 lies above 0.05


def deciles_of(p_values: NDArray[np.float64]) -> NDArray[np.int64]:
    """p-values -> 0 (as ordinary as calibration data gets) to 9 (the least ordinary tenth).

    ID inputs fall into each decile equally often.
    """
    # 1 - 0.9 lies a rounding error below 0.1
    return np.minimum(DECILES - 1, ((1.0 - p_values) * DECILES + 1e-9).astype(np.int64))


def _classify(logits: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """Logits (N, K) -> the likeliest label and its softmax probability, per row."""
    with np.errstate(invalid="ignore", over="ignore"):
        top = logits.max(axis=1)
        confidence = 1.0 / np.exp(logits - top[:, None]).sum(axis=1)
    return logits.argmax(axis=1).tolist(), confidence.tolist()


def _non_finite_outputs(
    columns: NDArray[np.float32], logits: NDArray[np.float64], plan: Plan
) -> dict[int, str]:
    """Row -> the first output that is not finite there."""
    if np.isfinite(columns).all() and np.isfinite(logits).all():
        return {}
    broken: dict[int, str] = {}
    for name, values in zip((LOGITS, *plan.outputs), (logits.sum(axis=1), *columns), strict=True):
        for row in np.flatnonzero(~np.isfinite(values)).tolist():
            broken.setdefault(row, name)
    return broken
