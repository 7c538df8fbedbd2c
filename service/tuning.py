"""How much a graph is given at once: the smallest batch that is as fast a row as any.

Measured when the graph is opened.  Small batches let others in sooner; on a CPU larger ones are
often no faster, and on short texts or a GPU they are several times as fast.
"""

from collections.abc import Callable
from dataclasses import dataclass

# one run of a graph should take no longer, so that no other input waits long for its turn
LONGEST_RUN_SECONDS = 0.1
# nor is it worth anything to split what takes less
_SHORTEST_RUN_SECONDS = 0.005
_AS_FAST = 1.05  # closer is noise
_RUNS = 3  # of each size; the fastest one counts


@dataclass(frozen=True)
class Tuning:
    """`rows` of a batch at most, and what a row then takes; of texts as long as the golden ones."""

    rows: int
    seconds_per_row: float
    tokens_per_row: int = 1
    threads: int = 1

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
    chosen = min(rows for rows, each in measured.items() if each <= best * _AS_FAST)
    short = [rows for rows, each in measured.items() if rows * each <= _SHORTEST_RUN_SECONDS]
    chosen = max(chosen, *short, 1)
    return Tuning(chosen, measured[chosen], tokens_per_row)
