"""The worst mistakes of one detector: ID it rejects, OOD it accepts.  Higher score = more OOD."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle import p_values
from training.data import ImageSet, InputSet, TextSet

SHOWN = 8  # of each set on the page
LISTED = 50  # of each set in the list

Kind = Literal["false_alarm", "false_accept"]


@dataclass(frozen=True)
class Mistake:
    """One input: where it stands in its set, and what the bundle says of it."""

    set: str
    kind: Kind
    position: int
    score: float
    p_value: float
    predicted: str
    label: str | None = None  # of an ID input
    file: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class MistakeRow:
    """The mistakes on one set, the worst one first; `count` of `total` inputs are mistaken.

    pixels: (n, H, W, C) of the first `SHOWN`, None of texts.
    """

    set: str
    kind: Kind
    count: int
    total: int
    worst: tuple[Mistake, ...]
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Judge:
    """The detector that decides, and what it decides by; calibration: scores of cal-ID (n,)."""

    detector: str
    threshold: float
    calibration: NDArray[np.floating]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ScoredInputs:
    """A set with its scores (N,) and predicted classes (N,)."""

    inputs: InputSet
    scores: NDArray[np.floating]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class Mistakes:
    """test-ID first, then every OOD set."""

    detector: str
    threshold: float
    rows: tuple[MistakeRow, ...]


def worst_mistakes(
    judge: Judge, test_id: ScoredInputs, ood: Mapping[str, ScoredInputs]
) -> Mistakes:
    """False alarms with the highest scores, false accepts with the lowest."""
    sets = {"test_id": test_id} | dict(ood)
    rows = tuple(
        _row(judge, name, scored, "false_alarm" if scored is test_id else "false_accept")
        for name, scored in sets.items()
    )
    return Mistakes(judge.detector, judge.threshold, rows)


def mistake_lines(mistakes: Mistakes) -> str:
    """One JSON object a line."""
    return "".join(
        json.dumps({key: value for key, value in asdict(one).items() if value is not None}) + "\n"
        for row in mistakes.rows
        for one in row.worst
    )


def _row(judge: Judge, name: str, scored: ScoredInputs, kind: Kind) -> MistakeRow:
    scores = np.asarray(scored.scores, np.float64)
    flagged = scores > judge.threshold
    wrong = np.flatnonzero(flagged if kind == "false_alarm" else ~flagged)
    badness = scores if kind == "false_alarm" else -scores
    worst = wrong[np.argsort(-badness[wrong], kind="stable")][:LISTED]
    calibration = np.sort(np.asarray(judge.calibration, np.float64))
    values = p_values(calibration, scores[worst])
    found = tuple(
        Mistake(
            name,
            kind,
            int(position),
            float(scores[position]),
            float(value),
            judge.class_names[scored.predicted[position]],
            **_about(scored.inputs, int(position), kind),
        )
        for position, value in zip(worst, values, strict=True)
    )
    pixels = None
    if isinstance(scored.inputs, ImageSet) and len(worst):
        pixels = scored.inputs.take(worst[:SHOWN], name).batch(slice(None))
    return MistakeRow(name, kind, len(wrong), len(scores), found, pixels)


def _about(inputs: InputSet, position: int, kind: Kind) -> dict[str, Any]:
    label = int(inputs.labels[position])
    about: dict[str, Any] = {}
    if kind == "false_alarm" and label >= 0:
        about["label"] = inputs.class_names[label]
    if isinstance(inputs, ImageSet) and inputs.files:
        about["file"] = inputs.files[position]
    if isinstance(inputs, TextSet):
        about["text"] = inputs.texts[position]
    return about
