"""How much a graph is given at once: the largest batch that is as fast a row as any.

Measured when the graph is opened.  A batch holds what waits, so that a large bound costs nobody
anything while little waits; some networks are slower a row where a batch leaves the caches.
"""

from collections.abc import Callable
from dataclasses import dataclass

# one run of a graph should take no longer, so that no other input waits long for its turn
LONGEST_RUN_SECONDS = 0.1
_AS_FAST = 1.05  # closer is noise
_NEARLY_AS_FAST = 1.25
# times as fast a row; below that two processors at once gain more than one with a batch
_BATCHES_PAY = 1.5
_RUNS = 2  # of each size; the faster one counts


@dataclass(frozen=True)
class Tuning:
    """`rows` of a batch at most, and what a row then takes; of texts as long as the golden ones."""

    rows: int
    seconds_per_row: float
    tokens_per_row: int = 1
    # rows of a batch that gains most of what a larger one would; 1 where none gains much
    enough: int = 1

    @property
    def tokens(self) -> int:
        """The same bound for texts of any length, padding counted in."""
        return self.rows * self.tokens_per_row

    @property
    def seconds_per_token(self) -> float:
        return self.seconds_per_row / self.tokens_per_row


def tune(seconds: Callable[[int], float], max_rows: int, *, tokens_per_row: int = 1) -> Tuning:
    """`seconds` runs a batch of so many rows and tells what it took; sizes double."""
    measured: dict[int, float] = {}
    rows = 1
    while rows <= max_rows:
        took = min(seconds(rows) for _ in range(_RUNS))
        measured[rows] = took / rows
        if took * 2 > LONGEST_RUN_SECONDS:
            break
        rows *= 2
    best = min(measured.values())
    chosen = max(rows for rows, each in measured.items() if each <= best * _AS_FAST)
    enough = 1
    if measured[1] > best * _BATCHES_PAY:
        enough = min(rows for rows, each in measured.items() if each <= best * _NEARLY_AS_FAST)
    return Tuning(chosen, measured[chosen], tokens_per_row, enough)
