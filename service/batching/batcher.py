"""Threads that take the next batch whenever one of them is free.  No timer: nobody waits while a
thread is idle, and what arrives while all are busy becomes the next batches.

A thread decodes or tokenizes what it takes and then runs it, so that a request changes threads
twice and no more.  Where a network takes all processors, one thread runs it while others prepare
its next batch.  Models take turns by the time they were given, and so do the requests of a model.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.batching.job import Job, Slot
from service.batching.lane import Lane, Round
from service.errors import DeadlinePassed, InputRejected, ShuttingDown
from service.loading import LoadedBundle
from service.scoring import Answer, Prepared, Scorer, batches_of

logger = logging.getLogger(__name__)

_Key = tuple[int, tuple[str, ...]]


@dataclass(frozen=True)
class Batch:
    """One run of a model, as metrics count it."""

    bundle: LoadedBundle
    size: int
    reason: str  # one of metrics.RELEASE_REASONS


class WorkerFailed(Exception):
    """A thread was asked to end in the middle of a batch; it did not."""


class Batcher:
    """To be shared by threads; its own start with the first job."""

    def __init__(
        self,
        scorer: Scorer,
        workers: int,
        on_batch: Callable[[Batch], None],
        on_ended: Callable[[Sequence[Job]], None],
    ) -> None:
        """`on_ended` hears, in a worker thread, of jobs that ended together."""
        self._scorer = scorer
        self._workers = workers
        self._on_batch = on_batch
        self._on_ended = on_ended
        self._changed = threading.Lock()
        self._idle: list[threading.Condition] = []  # of threads that wait; the last is woken first
        self._lanes: dict[_Key, Lane] = {}
        self._virtual_seconds = 0.0
        self._threads: list[threading.Thread] = []
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def lanes(self) -> int:
        """Models and sets of graphs that have work."""
        return len(self._lanes)

    def submit(self, job: Job) -> None:
        """Raises ShuttingDown, DetectorUnavailable."""
        asked = job.asked
        key = (id(asked.bundle), asked.plan.graphs)
        with self._changed:
            if self._closed:
                raise ShuttingDown
            if not self._threads:
                self._start()
            lane = self._lanes.get(key)
            if lane is None:
                lane = Lane(asked, self._workers, self._scorer.batches)
                # who comes late has no claim on the time before
                lane.virtual_seconds = self._virtual_seconds
                self._lanes[key] = lane
            lane.add(job)
            if lane.can_run or lane.can_prepare:  # else whoever is at work takes it next
                self._wake()

    def abandon(self, job: Job) -> None:
        """Its caller has gone: what no thread has taken is dropped; the rest ends by itself."""
        with self._changed:
            if job.done:
                return
            self._drop(job)
            ended = job.done
        if ended:
            self._end([job])

    def close(self) -> None:
        """Waits for running batches; jobs that have not begun fail with ShuttingDown."""
        with self._changed:
            self._closed = True
            while self._idle:
                self._wake()
        for thread in self._threads:
            thread.join()
        with self._changed:
            waiting = [job for lane in self._lanes.values() for job in lane.waiting]
            for job in waiting:
                self._drop(job)
                job.failure = ShuttingDown()
        self._end(waiting)

    def _start(self) -> None:
        self._threads = [
            threading.Thread(target=self._work, name=f"score_{number}", daemon=True)
            for number in range(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def _drop(self, job: Job) -> None:
        job.abandon()
        lane = self._lanes.get((id(job.asked.bundle), job.asked.plan.graphs))
        if lane is not None:
            lane.remove(job)
            self._tidy(lane)

    def _tidy(self, lane: Lane) -> None:
        """A lane holds its bundle in memory; an idle one is made anew in microseconds."""
        if lane.idle:
            self._lanes = {key: other for key, other in self._lanes.items() if other is not lane}

    def _wake(self) -> None:
        """Whoever fell idle last: what it needs is still in its processor's caches."""
        if self._idle:
            self._idle.pop().notify()

    def _work(self) -> None:
        reason = "idle"
        woken = threading.Condition(self._changed)
        while (taken := self._next(reason, woken)) is not None:
            reason = "free"
            round_, expired = taken
            self._end(expired)
            self._do(round_)
            # nothing of a request outlives it here
            del taken, round_, expired

    def _next(self, reason: str, woken: threading.Condition) -> tuple[Round, list[Job]] | None:
        """Blocks; None at the end.  With jobs whose deadline passed while they waited."""
        expired: list[Job] = []
        with self._changed:
            while True:
                if self._closed:
                    return None
                lane = min(
                    (lane for lane in self._lanes.values() if lane.can_run),
                    key=lambda lane: lane.virtual_seconds,
                    default=None,
                )
                runs = lane is not None
                if lane is None:
                    lane = next((x for x in self._lanes.values() if x.can_prepare), None)
                if lane is not None:
                    break
                self._idle.append(woken)
                woken.wait()
                reason = "idle"
            self._virtual_seconds = max(self._virtual_seconds, lane.virtual_seconds)
            round_ = lane.take(
                time.monotonic(), runs=runs, reason=reason, expired=_too_late(expired)
            )
            lane.virtual_seconds += round_.work_seconds
            if any(lane.can_run or lane.can_prepare for lane in self._lanes.values()):
                self._wake()
            return round_, expired

    def _do(self, round_: Round) -> None:
        started = time.perf_counter()
        lane = round_.lane
        good: list[Slot] = []
        try:
            good = self._prepare(round_, round_.slots)
            if round_.runs and good:
                while joined := self._join(round_):
                    good += self._prepare(round_, joined)
                self._run(round_, good)
        except BaseException as exc:
            # whatever it is, no caller waits for ever and the thread goes on
            logger.exception("a batch was lost")
            # an event loop that is handed a SystemExit would end
            self._lose(round_, exc if isinstance(exc, Exception) else WorkerFailed(repr(exc)))
            good = []
        finally:
            with self._changed:
                if round_.runs:
                    lane.running -= 1
                    lane.virtual_seconds += time.perf_counter() - started - round_.work_seconds
                else:
                    kept = [slot for slot in good if not slot.job.abandoned]
                    gone = [slot for slot in good if slot.job.abandoned]
                    for slot in gone:
                        slot.job.give_up(slot)
                    lane.prepared(round_, kept)
                    self._wake()
                self._tidy(lane)
        if not round_.runs:
            self._end([slot.job for slot in good if slot.job.abandoned and slot.job.done])

    def _join(self, round_: Round) -> list[Slot]:
        """What came meanwhile and may run with it."""
        before = round_.work_seconds
        expired: list[Job] = []
        with self._changed:
            joined = round_.lane.join(round_, time.monotonic(), _too_late(expired))
            round_.lane.virtual_seconds += round_.work_seconds - before
        self._end(expired)
        return joined

    def _prepare(self, round_: Round, slots: Sequence[Slot]) -> list[Slot]:
        """Decode or tokenize what is raw; what cannot be is answered, and left out."""
        good: list[Slot] = []
        refused: list[tuple[Slot, Answer]] = []
        late: list[Slot] = []
        for slot in slots:
            if slot.prepared is None and slot.item is not None:
                job = slot.job
                if job.abandoned:
                    late.append(slot)
                    continue
                try:
                    prepared = self._scorer.prepare(
                        round_.lane.bundle, slot.item, job.asked.deadline, job.scored
                    )
                except DeadlinePassed as exc:
                    job.failure = exc
                    late.append(slot)
                    continue
                slot.item = None
                if isinstance(prepared, InputRejected):
                    refused.append((slot, prepared))
                    continue
                slot.prepared = prepared
            good.append(slot)
        if refused or late:
            self._answer(refused, late)
        return good

    def _run(self, round_: Round, slots: list[Slot]) -> None:
        lane = round_.lane
        prepared: list[Prepared] = [slot.prepared for slot in slots if slot.prepared is not None]
        for numbers in batches_of(prepared, lane.limits):
            batch = [slots[number] for number in numbers]
            gone = [slot for slot in batch if slot.job.abandoned]
            batch = [slot for slot in batch if not slot.job.abandoned]
            if gone:
                self._answer([], gone)
            if not batch:
                continue
            started = time.perf_counter()
            found = round_.network.answer(
                [slot.prepared for slot in batch if slot.prepared is not None],
                [slot.job.asked.plan for slot in batch],
            )
            passed = time.perf_counter() - started
            for job in {slot.job for slot in batch}:
                job.scored.took("infer", passed)
            self._on_batch(Batch(lane.bundle, len(batch), round_.reason))
            for size in found.batch_sizes[1:]:
                self._on_batch(Batch(lane.bundle, size, "alone"))
            self._answer(list(zip(batch, found.answers, strict=True)), [])

    def _answer(self, answered: Sequence[tuple[Slot, Answer]], late: Sequence[Slot]) -> None:
        """`late`: nobody wants to know any more."""
        with self._changed:
            counts = Counter(slot.job for slot, _ in answered)
            for slot, answer in answered:
                slot.prepared = None
                slot.job.answer(slot.place, answer)
            for job, count in counts.items():
                job.release(count)
            for slot in late:
                slot.job.give_up(slot)
            for job in {slot.job for slot in late}:
                if not job.abandoned:
                    self._drop(job)
            ended = [job for job in {*counts, *(slot.job for slot in late)} if job.done]
        self._end(ended)

    def _lose(self, round_: Round, exc: Exception) -> None:
        """Whatever of a round has no answer fails, with its whole request."""
        with self._changed:
            lost = [
                slot for slot in round_.slots if slot.item is not None or slot.prepared is not None
            ]
            for slot in lost:
                slot.job.give_up(slot)
                slot.job.failure = exc
            for job in {slot.job for slot in lost}:
                if not job.abandoned:
                    self._drop(job)
            ended = [job for job in {slot.job for slot in lost} if job.done]
        self._end(ended)

    def _end(self, jobs: Sequence[Job]) -> None:
        if ended := [job for job in jobs if job.end()]:
            self._on_ended(ended)


def _too_late(expired: list[Job]) -> Callable[[Job], None]:
    """Fails a job whose deadline passed while it waited, and keeps it if that ends it."""

    def fail(job: Job) -> None:
        job.abandon()
        job.failure = DeadlinePassed(job.asked.deadline.seconds)
        if job.done:
            expired.append(job)

    return fail
