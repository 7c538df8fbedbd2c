"""All detectors and the labels of one model version."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from service.bundle import Manifest
from service.decision import Verdict
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

    def add(self, verdicts: Sequence[Verdict], times: NDArray[np.float64]) -> None:
        """Answers (n,) and when they were given, Unix seconds (n,)."""
        if self._labels is not None:
            self._labels.add([verdict.label_index for verdict in verdicts], times)
        for names, places, scores in _columns(verdicts):
            detectors = [self._detectors[name] for name in names]
            for detector, column in zip(detectors, scores.T, strict=True):
                detector.add(column, times[places])
            sequential = [detector.sequential for detector in detectors]
            update_all(sequential, scores, times[places], self._size.inputs)

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


Column = tuple[NDArray[np.int64], NDArray[np.float32]]


def _columns(
    verdicts: Sequence[Verdict],
) -> list[tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.float32]]]:
    """Detectors, the places (m,) of the answers that name them, ascending, and scores (m, d).

    Answers mostly name the same detectors: those stay one matrix; else each goes by itself.
    """
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, verdict in enumerate(verdicts):
        alike.setdefault(verdict.detectors.names, []).append(place)
    matrices = [
        (names, np.array(members), _matrix([verdicts[place] for place in members], len(names)))
        for names, members in alike.items()
    ]
    if len(matrices) == 1:
        return matrices
    parts: dict[str, list[Column]] = {}
    for names, places, scores in matrices:
        for name, column in zip(names, scores.T, strict=True):
            parts.setdefault(name, []).append((places, column))
    return [((name,), *_in_order(some)) for name, some in parts.items()]


def _matrix(verdicts: Sequence[Verdict], detectors: int) -> NDArray[np.float32]:
    """Scores (m, detectors)."""
    numbers = chain.from_iterable(verdict.detectors.scores for verdict in verdicts)
    return np.fromiter(numbers, np.float32, len(verdicts) * detectors).reshape(-1, detectors)


def _in_order(parts: Sequence[Column]) -> Column:
    """Places (m,) and scores (m, 1)."""
    places = np.concatenate([some for some, _ in parts])
    order = np.argsort(places)
    return places[order], np.concatenate([scores for _, scores in parts])[order, None]
