"""Worker processes of this machine.  One that is killed costs a repetition, not a row."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from service.bulk.errors import PartitionFailed
from service.bulk.job import Job
from service.bulk.partitions import Partition
from service.bulk.worker import score_partition

_TIMES_ALONE = 2
_WAITING = 1  # partitions a worker, besides those being scored


def run(
    job: Job, partitions: Sequence[Partition], workers: int, address: str | None
) -> Iterator[tuple[Partition, bytes]]:
    """When a worker dies, nobody can say which partition it had: all that were under way are
    scored again, one at a time, and one that then ends its worker again and again is told.

    Raises PartitionFailed.
    """
    waiting = deque(partitions)
    suspects: deque[Partition] = deque()
    died: dict[int, int] = {}
    while waiting or suspects:
        pool = _Pool(job, workers)
        try:
            while suspects:
                partition = suspects[0]
                data = pool.submit(partition).result()
                suspects.popleft()
                yield partition, data
            yield from pool.score_all(waiting)
        except BrokenProcessPool:
            if suspects:
                number = suspects[0].number
                died[number] = died.get(number, 0) + 1
                if died[number] >= _TIMES_ALONE:
                    raise _ends_workers(suspects[0]) from None
            suspects.extend(pool.under_way)
        finally:
            pool.stop()


def _ends_workers(partition: Partition) -> PartitionFailed:
    return PartitionFailed(
        f"partition {partition.number}, inputs {partition.start} to "
        f"{partition.start + partition.count - 1} ({partition.files[0]}): its worker process "
        "died each time it was scored; is there memory enough?  What is finished is kept"
    )


class _Pool:
    def __init__(self, job: Job, workers: int) -> None:
        self._job = job
        self._most = workers * (1 + _WAITING)
        context = multiprocessing.get_context("spawn")  # threads of this process stay here
        # closed when this process stops or dies: the workers read its other end
        self._alive, self._ours = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(self._alive,)
        )
        self.under_way: list[Partition] = []

    def submit(self, partition: Partition) -> "Future[bytes]":
        return self._executor.submit(score_partition, self._job, partition)

    def score_all(self, waiting: deque[Partition]) -> Iterator[tuple[Partition, bytes]]:
        """Takes what it scores out of `waiting`.  Raises BrokenProcessPool, PartitionFailed."""
        running: dict[Future[bytes], Partition] = {}
        while waiting or running:
            while waiting and len(running) < self._most:
                partition = waiting.popleft()
                self.under_way.append(partition)
                running[self.submit(partition)] = partition
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda each: each.exception() is not None):
                data = future.result()
                partition = running.pop(future)
                self.under_way.remove(partition)
                yield partition, data

    def stop(self) -> None:
        """At once, whatever is being scored."""
        self._ours.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._alive.close()


def _begin(alive: Connection) -> None:
    """Of a worker: Ctrl-C is the parent's business, its end is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()


def _end_with(alive: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)
