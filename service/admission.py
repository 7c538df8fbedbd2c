"""How much work may wait, and how many pixels may stand decoded in memory.

A permit returns when the work ends, not when its client leaves.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from service.errors import Overloaded

_HALF_LIFE_SECONDS = 10.0
_PRIOR_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 600
_UNCOUNTED_PIXELS = 2**18  # some megabytes a thread: not worth waiting for


class Admission:
    """Bounds what waits or is being scored, whatever the requests it came in: inputs, because
    they are held in memory, and the time they are going to take.

    Seconds of work are an estimate, on an idle machine; how many of them pass in a second is
    measured, so that waiting times come out right where the estimate or the machine is off.
    """

    def __init__(
        self,
        max_queued_inputs: int,
        max_queued_seconds: float = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = max_queued_inputs
        self._longest_wait = max_queued_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._queued = 0
        self._work = 0.0
        self._rate = _BusyRate(clock())

    @property
    def queued(self) -> int:
        """Inputs waiting or being scored."""
        return self._queued

    @property
    def queued_seconds(self) -> float:
        """Time they are going to take."""
        with self._lock:
            return self._drain_seconds()

    def admit(self, inputs: int, work: float = 0.0, patience: float = math.inf) -> "Permit":
        """`work`: seconds these inputs are estimated to take; `patience`: how long they may wait.

        Raises Overloaded when `inputs` more would pass the limit, or what is already there takes
        longer than the queue may or the caller can wait.  A queue without work admits anything.
        """
        with self._lock:
            if (full := self._full(inputs, patience)) is not None:
                raise full
            self._rate.advance(self._clock(), busy=self._queued > 0)
            self._queued += inputs
            self._work += work
        return Permit(self, inputs, work)

    def overloaded(self) -> Overloaded | None:
        """Why one input more would be refused, however patient its caller; None: it would not."""
        with self._lock:
            return self._full(1, math.inf)

    def _full(self, inputs: int, patience: float) -> Overloaded | None:
        if self._queued + inputs > self._limit:
            return Overloaded(self._queued, "inputs", self._limit, self._retry_after())
        wait = self._drain_seconds()
        limit = min(self._longest_wait, patience)
        if self._queued and wait > limit:
            unit = "seconds of work"
            return Overloaded(round(wait, 1), unit, round(limit, 1), self._retry_after())
        return None

    def _give_back(self, inputs: int, work: float, *, done: bool) -> None:
        with self._lock:
            self._rate.advance(self._clock(), busy=True)
            if done:
                self._rate.finished(work)
            self._queued -= inputs
            self._work = self._work - work if self._queued else 0.0  # no rounding error stays

    def retry_after_seconds(self) -> int:
        """Time until the queue is empty if nobody else comes, 1 to 600 s."""
        with self._lock:
            return self._retry_after()

    def _retry_after(self) -> int:
        return min(_LONGEST_RETRY_SECONDS, max(1, math.ceil(self._drain_seconds())))

    def _drain_seconds(self) -> float:
        self._rate.advance(self._clock(), busy=self._queued > 0)
        return self._work / self._rate.work_per_second()


class Permit:
    """The right to have `inputs` in the queue; each given back once, from any thread."""

    def __init__(self, admission: Admission, inputs: int, work: float) -> None:
        self._admission = admission
        self._inputs = inputs
        self._work_each = work / inputs if inputs else 0.0
        self._lock = threading.Lock()

    def release(self, inputs: int | None = None, *, done: bool = True) -> None:
        """`inputs` of them, or all that are left; `done`: they were worked on, not dropped."""
        with self._lock:
            inputs = self._inputs if inputs is None else min(inputs, self._inputs)
            self._inputs -= inputs
        if inputs:
            self._admission._give_back(inputs, inputs * self._work_each, done=done)  # pyright: ignore[reportPrivateUsage]


class _BusyRate:
    """Work finished per second of busy time; what is older weighs half every 10 s of it.

    Begins with a second of work done in a second.
    """

    def __init__(self, now: float) -> None:
        self._last = now
        self._work = _PRIOR_SECONDS
        self._seconds = _PRIOR_SECONDS

    def advance(self, now: float, *, busy: bool) -> None:
        passed = now - self._last
        self._last = now
        if busy and passed > 0:
            decay = 0.5 ** (passed / _HALF_LIFE_SECONDS)
            self._work *= decay
            self._seconds = self._seconds * decay + passed

    def finished(self, work: float) -> None:
        self._work += work

    def work_per_second(self) -> float:
        return max(self._work / self._seconds, 1e-9)


class PixelBudget:
    """Bounds the pixels of images being decoded, whatever the threads; first come, first served."""

    def __init__(self, max_pixels: int) -> None:
        self._free = max_pixels
        self._turns: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def claim(self, seconds: float) -> Generator["PixelClaim"]:
        """To be held while one image is in memory, and filled once its size is known."""
        claim = PixelClaim(self, seconds)
        try:
            yield claim
        finally:
            claim.release()

    @property
    def waiting(self) -> int:
        """Images waiting for others to leave memory."""
        return len(self._turns)

    def _take(self, pixels: int, seconds: float) -> bool:
        turn = object()
        with self._changed:
            self._turns.append(turn)
            try:
                return self._changed.wait_for(
                    lambda: self._turns[0] is turn and self._free >= pixels and self._pay(pixels),
                    timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)),
                )
            finally:
                self._turns.remove(turn)
                self._changed.notify_all()

    def _pay(self, pixels: int) -> bool:
        self._free -= pixels
        return True

    def _give_back(self, pixels: int) -> None:
        with self._changed:
            self._free += pixels
            self._changed.notify_all()


class PixelClaim:
    """What one image holds of the budget."""

    def __init__(self, budget: PixelBudget, seconds: float) -> None:
        self._pixels = 0
        self._budget = budget
        self._seconds = seconds

    def fill(self, pixels: int) -> bool:
        """Wait for that many pixels, once; False if they did not come free in time."""
        if pixels <= _UNCOUNTED_PIXELS:
            return True
        if not self._budget._take(pixels, self._seconds):  # pyright: ignore[reportPrivateUsage]
            return False
        self._pixels = pixels
        return True

    def release(self) -> None:
        pixels, self._pixels = self._pixels, 0
        if pixels:
            self._budget._give_back(pixels)  # pyright: ignore[reportPrivateUsage]
