"""How much work may wait.  A permit returns when the work ends, not when its client leaves."""

import math
import threading
import time
from collections.abc import Callable

from service.errors import Overloaded

_HALF_LIFE_SECONDS = 10.0
_LONGEST_RETRY_SECONDS = 600


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
