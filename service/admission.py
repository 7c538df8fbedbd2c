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
_LONGEST_RETRY_SECONDS = 600
_UNCOUNTED_PIXELS = 2**18  # some megabytes a thread: not worth waiting for


class Admission:
    """Bounds the inputs that wait or are being scored, whatever the requests they came in."""

    def __init__(
        self, max_queued_inputs: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = max_queued_inputs
        self._clock = clock
        self._lock = threading.Lock()
        self._queued = 0
        self._rate = _BusyRate(clock())

    @property
    def queued(self) -> int:
        """Inputs waiting or being scored."""
        return self._queued

    def admit(self, inputs: int) -> "Permit":
        """Raises Overloaded when `inputs` more would pass the limit."""
        with self._lock:
            if self._queued + inputs > self._limit:
                raise Overloaded(self._queued, "inputs", self._limit, self._retry_after())
            self._rate.advance(self._clock(), busy=self._queued > 0)
            self._queued += inputs
        return Permit(self, inputs)

    def _give_back(self, inputs: int) -> None:
        with self._lock:
            self._rate.advance(self._clock(), busy=True)
            self._rate.finished(inputs)
            self._queued -= inputs

    def retry_after_seconds(self) -> int:
        """Time the queued inputs take at the recent rate, 1 to 600 s."""
        with self._lock:
            return self._retry_after()

    def _retry_after(self) -> int:
        self._rate.advance(self._clock(), busy=self._queued > 0)
        rate = self._rate.inputs_per_second()
        seconds = self._queued / rate if rate > 0 else 1.0
        return min(_LONGEST_RETRY_SECONDS, max(1, math.ceil(seconds)))


class Permit:
    """The right to have `inputs` in the queue; released once, from any thread."""

    def __init__(self, admission: Admission, inputs: int) -> None:
        self._admission = admission
        self._inputs = inputs
        self._lock = threading.Lock()
        self._held = True

    def release(self) -> None:
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._admission._give_back(self._inputs)  # pyright: ignore[reportPrivateUsage]


class _BusyRate:
    """Inputs finished per second of busy time; what is older weighs half every 10 s of it."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._inputs = 0.0
        self._seconds = 0.0

    def advance(self, now: float, *, busy: bool) -> None:
        if busy:
            passed = now - self._last
            decay = 0.5 ** (passed / _HALF_LIFE_SECONDS)
            self._inputs *= decay
            self._seconds = self._seconds * decay + passed
        self._last = now

    def finished(self, inputs: int) -> None:
        self._inputs += inputs

    def inputs_per_second(self) -> float:
        return self._inputs / self._seconds if self._seconds > 0 else 0.0


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
