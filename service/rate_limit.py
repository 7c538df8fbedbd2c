"""A token bucket: so many requests a second in the long run, so many at once."""

import time
from collections.abc import Callable


class TokenBucket:
    """Two floats, whatever the traffic.  Event loop only."""

    def __init__(
        self, per_second: float, burst: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock()

    def take(self) -> float:
        """0 and one token is gone; else the seconds until there is one, and none is gone."""
        now = self._clock()
        earned = (now - self._filled_at) * self._per_second
        self._tokens = min(self._burst, self._tokens + earned)
        self._filled_at = now
        # a wait of exactly what was told may earn a rounding error less than a token
        if self._tokens >= 1.0 - 1e-9:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._per_second
