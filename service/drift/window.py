"""The last values of a stream, by count and by time."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WindowSize:
    """The last so many inputs, none older than so many seconds."""

    inputs: int
    seconds: float


class SlidingWindow:
    """A ring of values, each with the time it came; what is too old is left out when read.
    Memory and the cost of a value are constant.  Not for several threads at once.
    """

    def __init__(self, size: WindowSize) -> None:
        self._values = np.zeros(size.inputs, np.float32)
        self._times = np.full(size.inputs, -math.inf)
        self._seconds = size.seconds
        self._next = 0

    def add(self, values: NDArray[np.floating], times: NDArray[np.float64]) -> None:
        """Values (n,) and their times in seconds (n,), oldest first."""
        size = len(self._values)
        values, times = values[-size:], times[-size:]
        first = min(len(values), size - self._next)  # the rest goes to the beginning of the ring
        for ring, new in ((self._values, values), (self._times, times)):
            ring[self._next : self._next + first] = new[:first]
            ring[: len(new) - first] = new[first:]
        self._next = (self._next + len(values)) % size

    def read(self, now: float) -> tuple[NDArray[np.float64], float | None]:
        """Values not older than the window, in no order, and the time of the oldest."""
        recent = self._times >= now - self._seconds
        if not recent.any():
            return np.zeros(0), None
        return self._values[recent].astype(np.float64), float(self._times[recent].min())
