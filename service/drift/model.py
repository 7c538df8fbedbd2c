"""All detectors and the labels of one model version."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from service.bundle import Manifest
from service.drift.answers import Answers
from service.drift.detector import DetectorDrift
from service.drift.labels import LabelDrift
from service.drift.reference import Reference
from service.drift.report import Began, ModelReport
from service.drift.side_by_side import update_all
from service.drift.state_file import ModelState
from service.drift.window import WindowSize
from service.drift.words import summarise


class ModelDrift:
    """`identity` changes with the calibration scores.  Not for several threads at once."""

    def __init__(
        self,
        manifest: Manifest,
        calibration: Mapping[str, NDArray[np.float32]],
        identity: str,
        size: WindowSize,
        run_length: float,
    ) -> None:
        self.manifest = manifest
        self.identity = identity
        self._references = [Reference(d, calibration[d.name]) for d in manifest.detectors]
        self._size = size
        self._run_length = run_length
        self._labels: LabelDrift | None = None
        if manifest.label_counts is not None:
            expected = np.array(manifest.label_counts, np.int64)
            self._labels = LabelDrift(manifest.class_names, expected, size)
        self._detectors: dict[str, DetectorDrift] = {}

    def begin(self, now: float, saved: ModelState | None, unsaved: Began = "first_seen") -> None:
        """Take up the saved evidence; where there is none that fits, begin at `now`."""
        because: Began = unsaved
        if saved is not None and saved.identity != self.identity:
            saved, because = None, "bundle_changed"
        for reference in self._references:
            drift = DetectorDrift(reference, self._size, self._run_length, now, because)
            state = saved.detectors.get(drift.name) if saved else None
            if state is not None:
                drift.sequential.restore(state)
            self._detectors[drift.name] = drift

    def add(self, answers: Sequence[Answers]) -> None:
        """Requests, oldest first."""
        if self._labels is not None:
            labels = [label for one in answers for label in one.labels]
            self._labels.add(labels, _times(answers))
        for names, scores, times in _columns(answers):
            detectors = [self._detectors[name] for name in names]
            for detector, column in zip(detectors, scores.T, strict=True):
                detector.add(column, times)
            sequential = [detector.sequential for detector in detectors]
            update_all(sequential, scores, times, self._size.inputs)

    def report(self, now: float) -> ModelReport:
        detectors = [drift.report(now) for drift in self._detectors.values()]
        labels = None if self._labels is None else self._labels.report(now)
        alarms = [d.shiryaev_roberts for d in detectors]
        since = [alarm.since for alarm in alarms if alarm.since is not None]
        return ModelReport(
            name=self.manifest.name,
            version=self.manifest.version,
            summary=summarise(
                self.manifest.policy.primary, detectors, labels, datetime.fromtimestamp(now, UTC)
            ),
            drifting=bool(since),
            since=min(since, default=None),
            labels=labels,
            detectors=detectors,
        )

    def state(self) -> ModelState:
        return ModelState(
            identity=self.identity,
            detectors={name: d.sequential.state() for name, d in self._detectors.items()},
        )


Columns = tuple[tuple[str, ...], NDArray[np.float32], NDArray[np.float64]]


def _columns(answers: Sequence[Answers]) -> list[Columns]:
    """Detectors (d,), their scores (n, d), oldest first, and when they were given (n,).

    Requests mostly ask for the same detectors: those stay one matrix; else each goes by itself.
    """
    if len({one.names for one in answers}) == 1:
        scores = np.concatenate([one.scores for one in answers])
        return [(answers[0].names, scores, _times(answers))]
    parts: dict[str, list[Answers]] = {}
    for one in answers:
        for place, name in enumerate(one.names):
            scores = one.scores[:, place : place + 1]
            parts.setdefault(name, []).append(one._replace(names=(name,), scores=scores))
    return [columns for some in parts.values() for columns in _columns(some)]


def _times(answers: Sequence[Answers]) -> NDArray[np.float64]:
    """(n,)."""
    return np.repeat([one.at for one in answers], [len(one.labels) for one in answers])
