"""Graphs of a bundle: opened, timed, held against the golden outputs before they answer.

forward.onnx is opened with its bundle.  A graph of its own (input gradients, several passes) is
opened when a request first names one of its detectors, and never by anyone else.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from service.bundle import (
    WEIGHTS,
    BundleCorrupt,
    Golden,
    GoldenTolerance,
    ImageInput,
    TextInput,
    check_golden,
)
from service.cpus import usable_cpus
from service.errors import DetectorUnavailable
from service.logs import fields
from service.onnx_session import ModelInput, OnnxSession, Outputs, ScoreOutput
from service.tuning import tune

logger = logging.getLogger(__name__)

GraphState = Literal["ready", "not_opened", "failed"]

# networks slower than this on one input are worth more than one thread
SMALL_NETWORK_SECONDS = 0.003
# and only if these take that share of its time, at most: with less to gain they spend a fifth more
# of the processors on it, and two inputs at a time are answered sooner on one each
_WORTH_ALL_THREADS = 0.75
_RUNS_OF_ONE = 6
# larger ones are not kept in memory twice, for one thread and for all
_TWICE_IN_MEMORY_BYTES = 64 * 2**20
# a broken graph fails again at once, want of memory passes: try, but not at every request
RETRY_SECONDS = 60.0


@dataclass(frozen=True)
class SessionOptions:
    provider: str = "auto"  # auto, cpu or cuda
    threads: int | None = None  # inside one inference; None: by the network's speed
    max_rows: int = 64  # of a batch


@dataclass(frozen=True)
class Expected:
    """What a graph file has to read, give and reproduce."""

    input: ImageInput | TextInput
    outputs: Sequence[ScoreOutput]
    golden: Golden  # may hold outputs of other graphs too
    golden_batch: ModelInput  # the golden inputs as the graph reads them
    golden_file: Path
    tolerance: GoldenTolerance


def open_graph(path: Path, expected: Expected, options: SessionOptions) -> OnnxSession:
    """Raises BundleError naming the file, ProviderUnavailable."""
    names = [output.name for output in expected.outputs]
    session = OnnxSession(path, provider=options.provider, threads=options.threads or 1)
    session.check_signature(expected.input, expected.outputs)
    served = _run(path, session, expected.golden_batch, names)
    recorded = Golden(expected.golden.inputs, {n: expected.golden.outputs[n] for n in names})
    check_golden(expected.golden_file, recorded, served, expected.tolerance)
    if options.threads is None and session.provider == "cpu" and usable_cpus() > 1:
        session = _on_processors_that_pay(path, session, _Stopwatch(_typical(expected), names))
    stopwatch = _Stopwatch(expected.golden_batch, names)
    tokens = 1 if isinstance(expected.input, ImageInput) else expected.golden_batch.shape[1]
    session.tuning = tune(
        lambda rows: stopwatch.seconds(session, rows), options.max_rows, tokens_per_row=tokens
    )
    return session


def _on_processors_that_pay(
    path: Path, session: OnnxSession, stopwatch: "_Stopwatch"
) -> OnnxSession:
    """The session of one thread, or one of all threads if one input is worth them."""
    alone = stopwatch.least_seconds(session)
    if alone <= SMALL_NETWORK_SECONDS:
        return session
    wide = OnnxSession(path, provider=session.provider, threads=usable_cpus())
    if stopwatch.least_seconds(wide) >= alone * _WORTH_ALL_THREADS:
        return session
    if _size(path) <= _TWICE_IN_MEMORY_BYTES:
        wide.single = session
    return wide


def _typical(expected: Expected) -> ModelInput:
    """One golden input; of texts that of median length, without what pads it to the longest."""
    batch = expected.golden_batch
    if isinstance(expected.input, ImageInput):
        return batch[:1]
    lengths = (batch != expected.input.pad_id).sum(axis=1)
    row = lengths.argsort(kind="stable")[len(lengths) // 2]
    return batch[row : row + 1, : lengths[row]]


@dataclass(frozen=True)
class _Stopwatch:
    batch: ModelInput
    outputs: Sequence[str]

    def seconds(self, session: OnnxSession, rows: int) -> float:
        """Of one run on so many rows, golden inputs again and again.

        One thread's own time where it does all the work: others on the machine do not count.
        """
        given = self.batch[np.arange(rows) % len(self.batch)]
        alone = session.threads == 1 and session.provider == "cpu"
        clock = time.thread_time if alone else time.perf_counter
        started = clock()
        session.run(given, self.outputs)
        return clock() - started

    def least_seconds(self, session: OnnxSession) -> float:
        """Of several runs on one row, after one that warms the session."""
        self.seconds(session, 1)
        return min(self.seconds(session, 1) for _ in range(_RUNS_OF_ONE))


class OnDemandGraph:
    """A graph opened on first use: once, whatever the threads that ask for it."""

    def __init__(
        self,
        folder: Path,
        file: str,
        opener: Callable[[], OnnxSession],
        sessions: MutableMapping[str, OnnxSession],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`file` lies in the bundle's `folder`; once open, its session is put into `sessions`."""
        self._path = folder / file
        self._file = file
        self._opener = opener
        self._sessions = sessions
        self._clock = clock
        self._lock = threading.Lock()
        self._retry_at: float | None = None  # set by a failure

    @property
    def state(self) -> GraphState:
        if self._file in self._sessions:
            return "ready"
        return "not_opened" if self._retry_at is None else "failed"

    def check(self) -> None:
        """Never blocks.  Raises DetectorUnavailable for RETRY_SECONDS after a failure."""
        wait = 0.0 if self._retry_at is None else self._retry_at - self._clock()
        if wait > 0:
            raise DetectorUnavailable(self._file, math.ceil(wait))

    def session(self) -> OnnxSession:
        """Opens the graph unless it is open; may take seconds.  Raises DetectorUnavailable."""
        with self._lock:
            if self._file in self._sessions:
                return self._sessions[self._file]
            self.check()
            started = time.perf_counter()
            try:
                opened = self._opener()
            except Exception as exc:  # of the bundle, of onnxruntime, of memory: all end here
                self._retry_at = self._clock() + RETRY_SECONDS
                logger.error("graph %s cannot be served: %s", self._path, exc)
                raise DetectorUnavailable(self._file, math.ceil(RETRY_SECONDS)) from exc
            self._retry_at = None
            self._sessions[self._file] = opened
        seconds = round(time.perf_counter() - started, 3)
        logger.info("graph ready", extra=fields(graph=str(self._path), seconds=seconds))
        return opened


def _size(path: Path) -> int:
    """Of a graph file and the weights it may share with others, in bytes."""
    weights = path.with_name(WEIGHTS)
    return path.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def _run(path: Path, session: OnnxSession, batch: ModelInput, outputs: Sequence[str]) -> Outputs:
    try:
        return session.run(batch, outputs)
    except Exception as exc:
        raise BundleCorrupt(path, f"fails on the golden inputs ({exc})") from exc
