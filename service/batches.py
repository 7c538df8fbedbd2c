"""Rows of tokens -> batches with little padding: neighbours in length go together."""

from collections.abc import Sequence
from dataclasses import dataclass

# a batch may be a quarter padding; below this many pad tokens another run would cost more
_MAX_PADDING_SHARE = 0.25
_FREE_PADDING = 64


@dataclass(frozen=True)
class BatchLimits:
    """What one run of a graph may hold."""

    rows: int
    on_demand_rows: int  # of a graph with gradients or several passes inside, each row costs more
    padded_tokens: int  # rows times the longest of them

    def at_most(self, rows: int, padded_tokens: int) -> "BatchLimits":
        return BatchLimits(
            min(rows, self.rows), self.on_demand_rows, min(padded_tokens, self.padded_tokens)
        )


def by_length(lengths: Sequence[int], limits: BatchLimits) -> list[list[int]]:
    """Lengths of N rows -> their numbers in batches, shortest first; each row in one of them.

    A row that alone passes `padded_tokens` makes a batch of its own.
    """
    batches: list[list[int]] = []
    tokens = 0
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[number]
        if batches and _fits(len(batches[-1]) + 1, length, tokens + length, limits):
            batches[-1].append(number)
            tokens += length
        else:
            batches.append([number])
            tokens = length
    return batches


def _fits(rows: int, longest: int, tokens: int, limits: BatchLimits) -> bool:
    padded = rows * longest
    padding = padded - tokens
    return (
        rows <= limits.rows
        and padded <= limits.padded_tokens
        and padding <= max(_FREE_PADDING, _MAX_PADDING_SHARE * padded)
    )
