"""Scores and thresholds -> verdicts.  Pure.  Scores: higher = more OOD.

OOD is score > threshold, which for thresholds taken from the calibration scores is exactly
p_value <= 1 - id_acceptance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle import FORWARD, DetectorSpec, Manifest, p_values, threshold_at
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

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class Plan:
    """What a request wants to know.  `deciding` is one of `detectors`."""

    class_names: Sequence[str]
    deciding: str
    detectors: tuple[PlannedDetector, ...]

    @property
    def graphs(self) -> list[str]:
        """The graph files to run, the forward one first: it gives the label."""
        return list(dict.fromkeys((FORWARD, *(d.spec.graph for d in self.detectors))))

    def outputs_of(self, graph: str) -> list[str]:
        """Names of the tensors to fetch from one graph file."""
        scores = [d.spec.output for d in self.detectors if d.spec.graph == graph]
        return [LOGITS, *scores] if graph == FORWARD else scores


@dataclass(frozen=True)
class DetectorVerdict:
    score: float
    threshold: float
    p_value: float
    decision: Decision


@dataclass(frozen=True)
class Verdict:
    """The answer for one input; `detectors` holds every requested one, `detector` decided."""

    label: str
    label_index: int
    confidence: float  # softmax probability of the label
    detector: str
    detectors: Mapping[str, DetectorVerdict]
    truncated: bool | None = None  # of a text: only its beginning was read

    @property
    def deciding(self) -> DetectorVerdict:
        return self.detectors[self.detector]


def make_plan(
    manifest: Manifest,
    calibration: Mapping[str, NDArray[np.float32]],
    detectors: Sequence[str] | None = None,
    id_acceptance: float | None = None,
) -> Plan:
    """Detectors None: all of the forward graph, the bundle's primary decides.
    Detectors named: these, and the first one decides.  Acceptance None: the bundle's own.

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
        planned.append(PlannedDetector(spec, threshold, scores))
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
    rows = [_detector_verdicts(outputs[d.spec.output], d) for d in plan.detectors]
    broken = _non_finite_outputs(outputs, plan)
    answers: list[Verdict | ScoreNotFinite] = []
    for index, (label, confidence) in enumerate(zip(labels, confidences, strict=True)):
        if index in broken:
            answers.append(ScoreNotFinite(broken[index]))
            continue
        verdicts = {d.name: row[index] for d, row in zip(plan.detectors, rows, strict=True)}
        answers.append(Verdict(plan.class_names[label], label, confidence, plan.deciding, verdicts))
    return answers


def decile_of(p_value: float) -> int:
    """p-value -> 0 (as ordinary as calibration data gets) to 9 (the least ordinary tenth).

    ID inputs fall into each decile equally often.
    """
    # 1 - 0.9 lies a rounding error below 0.1
    return min(DECILES - 1, int((1.0 - p_value) * DECILES + 1e-9))


def _classify(logits: NDArray[np.float64]) -> tuple[list[int], list[float]]:
    """Logits (N, K) -> the likeliest label and its softmax probability, per row."""
    with np.errstate(invalid="ignore", over="ignore"):
        top = logits.max(axis=1)
        confidence = 1.0 / np.exp(logits - top[:, None]).sum(axis=1)
    return logits.argmax(axis=1).tolist(), confidence.tolist()


def _detector_verdicts(
    scores: NDArray[np.float32], detector: PlannedDetector
) -> list[DetectorVerdict]:
    threshold = detector.threshold
    ps = p_values(detector.calibration, scores)
    return [
        DetectorVerdict(score, threshold, p, "OOD" if score > threshold else "ID")
        for score, p in zip(scores.tolist(), ps.tolist(), strict=True)
    ]


def _non_finite_outputs(outputs: Mapping[str, NDArray[np.float32]], plan: Plan) -> dict[int, str]:
    """Row -> the first output that is not finite there."""
    broken: dict[int, str] = {}
    for name in (LOGITS, *(d.spec.output for d in plan.detectors)):
        finite = np.isfinite(outputs[name])
        if finite.all():
            continue
        rows = finite.reshape(len(finite), -1).all(axis=1)
        for row in np.flatnonzero(~rows).tolist():
            broken.setdefault(row, name)
    return broken
