"""How often to try again, and how much to put into one request."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Retries:
    """Attempts in all, and the waits between them: doubled from `first` up to `longest`.

    `Retries(attempts=1)` tries nothing again.
    """

    attempts: int = 5
    first_wait_seconds: float = 0.2
    longest_wait_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; the first one counts, so at least 1")
        if not 0 <= self.first_wait_seconds <= self.longest_wait_seconds:
            raise ValueError("waits: 0 <= first_wait_seconds <= longest_wait_seconds")

    def wait_seconds(
        self,
        attempt: int,
        retry_after_seconds: float | None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> float:
        """After so many attempts (1, 2, ...).

        What the service asks for is the least, and a tenth more at most, so that callers who were
        refused together do not come back together.  Where it asks for nothing: anything
        between nothing and the doubled wait ("full jitter").
        """
        if retry_after_seconds is not None:
            return uniform(1.0, 1.1) * retry_after_seconds
        # 2 ** 60 is long enough; more overflows a float
        doubled = self.first_wait_seconds * 2.0 ** min(attempt - 1, 60)
        return uniform(0.0, min(doubled, self.longest_wait_seconds))


@dataclass(frozen=True)
class RequestSize:
    """At most this much in one request; the defaults lie below those of the service."""

    inputs: int = 64
    array_rows: int = 1024
    body_bytes: int = 24 * 1024 * 1024

    def __post_init__(self) -> None:
        if min(self.inputs, self.array_rows, self.body_bytes) < 1:
            raise ValueError("a request holds at least one input, one row and one byte")


DEFAULT_RETRIES = Retries()
DEFAULT_SIZE = RequestSize()
