"""Every answer of the service goes in, every report comes out.  No HTTP, no event loop."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle import Manifest
from service.decision import Verdict
from service.drift.answers import Answers, answers_of
from service.drift.model import ModelDrift
from service.drift.report import Began, ModelReport
from service.drift.state_file import ModelState, StateUnreadable, read_state, write_state
from service.drift.window import WindowSize
from service.logs import fields

logger = logging.getLogger(__name__)

# answers are taken in together: one by one numpy's calls would cost more than the sums
_TOGETHER = 256  # more at once gain nothing
# so many have to wait: a thread that takes in leaves the next batch to another one, whose
# processor's caches are cold, and that costs more than all sums
_WORTH_A_THREAD = 4 * _TOGETHER
_SAVE_EVERY_SECONDS = 10.0
# so many versions that are not watched any more keep their evidence
_PUT_ASIDE = 32
# a report is made anew at most so often, however many ask
REPORT_EVERY_SECONDS = 2.0

Key = tuple[str, str]  # name, version


@dataclass(frozen=True)
class DriftOptions:
    """`run_length`: ID inputs between two false alarms, at least; `state_file` None: not kept."""

    window: WindowSize
    run_length: float
    state_file: Path | None = None


class DriftTracker:
    """To be shared by threads.  Memory and the cost of an answer are constant."""

    def __init__(self, options: DriftOptions, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._clock = clock
        self._models: dict[Key, ModelDrift] = {}
        self._reports: dict[Key, ModelReport] = {}
        self._reported_at = -REPORT_EVERY_SECONDS
        self._waiting: list[tuple[Key, Answers]] = []
        self._waiting_count = 0
        self._waiting_lock = threading.Lock()
        self._lock = threading.Lock()  # of everything but what waits
        self._saved_at = clock()
        self._saved: dict[str, ModelState] = {}  # of versions that are not watched
        self._unsaved: Began = "first_seen"
        self._read()

    def watch(
        self, manifest: Manifest, calibration: Mapping[str, NDArray[np.float32]], identity: str
    ) -> None:
        """From now on answers of that model version are taken in.

        One that is watched already goes on as it is, unless its identity changed.
        """
        key = (manifest.name, manifest.version)
        with self._lock:
            if key in self._models and self._models[key].identity == identity:
                return
        options = self._options
        model = ModelDrift(manifest, calibration, identity, options.window, options.run_length)
        with self._lock:
            model.begin(self._clock(), self._saved.pop("/".join(key), None), self._unsaved)
            self._models[key] = model

    def unwatch(self, name: str, version: str) -> None:
        """Its answers are taken in no more; its evidence waits for the day it is watched again."""
        key = (name, version)
        with self._lock:
            self._take_in()
            model = self._models.pop(key, None)
            self._reports.pop(key, None)
            if model is None:
                return
            self._saved["/".join(key)] = model.state()
            for oldest in list(self._saved)[:-_PUT_ASIDE]:
                del self._saved[oldest]
            self._save()

    def add(self, name: str, version: str, verdicts: Sequence[Verdict]) -> None:
        """Answers of one request, of a version that is watched.  Next to free."""
        if not verdicts:
            return
        now, starts = self._clock(), range(0, len(verdicts), _TOGETHER)
        pieces = [answers_of(verdicts[start : start + _TOGETHER], now) for start in starts]
        with self._waiting_lock:
            self._waiting += [((name, version), piece) for piece in pieces]
            self._waiting_count += len(verdicts)

    def catch_up(self) -> None:
        """Take in the oldest of what was added while it is enough to pay, and no more: what comes
        meanwhile waits for the thread.  Worker threads only, where nobody waits: it takes
        milliseconds."""
        while self._waiting_count >= _WORTH_A_THREAD:
            with self._lock:
                self._take_in(_TOGETHER)

    def reports(self) -> list[ModelReport]:
        """Every watched version; at most REPORT_EVERY_SECONDS old.  Takes milliseconds."""
        with self._lock:
            now = self._clock()
            if abs(now - self._reported_at) >= REPORT_EVERY_SECONDS:
                self._take_in()
                self._reports = {key: model.report(now) for key, model in self._models.items()}
                self._reported_at = now
            return list(self._reports.values())

    def close(self) -> None:
        """Takes in what waits and keeps the evidence."""
        with self._lock:
            self._take_in()
            self._save()

    def _take_in(self, most: int | None = None) -> None:
        """All that waits, or `most` inputs of it."""
        with self._waiting_lock:
            sizes = [len(answers.labels) for _, answers in self._waiting]
            count = len(sizes) if most is None else _first(sizes, most)
            waiting, self._waiting = self._waiting[:count], self._waiting[count:]
            self._waiting_count -= sum(sizes[:count])
        if not waiting:
            return
        by_model: dict[Key, list[Answers]] = {}
        for key, answers in waiting:
            by_model.setdefault(key, []).append(answers)
        for key, answers in by_model.items():
            if key in self._models:  # else they came after the end of its version
                for part in _in_parts(answers):
                    self._models[key].add(part)
        if self._clock() - self._saved_at >= _SAVE_EVERY_SECONDS:
            self._save()

    def _read(self) -> None:
        if self._options.state_file is None:
            return
        try:
            self._saved = dict(read_state(self._options.state_file))
        except StateUnreadable as exc:
            logger.error("the evidence of drift begins anew: %s", exc)
            self._unsaved = "state_unreadable"

    def _save(self) -> None:
        path = self._options.state_file
        self._saved_at = self._clock()
        if path is None:
            return
        try:
            watched = {"/".join(key): model.state() for key, model in self._models.items()}
            write_state(path, self._saved | watched)
        except OSError as exc:
            logger.error(
                "the evidence of drift could not be kept",
                extra=fields(file=str(path), why=str(exc)),
            )


def _in_parts(answers: Sequence[Answers]) -> Iterator[Sequence[Answers]]:
    """Of _TOGETHER inputs or somewhat more; the last may have fewer."""
    sizes = [len(one.labels) for one in answers]
    begin = 0
    while begin < len(answers):
        end = begin + _first(sizes[begin:], _TOGETHER)
        yield answers[begin:end]
        begin = end


def _first(sizes: Sequence[int], inputs: int) -> int:
    """How many from the first on hold so many inputs or more; all of them, if they do not."""
    return min(int(np.searchsorted(np.cumsum(sizes), inputs)) + 1, len(sizes))
