"""Ratios of processor time, which a busy machine moves little.

Every figure of a graph is taken beside one of the plain graph, the first of the two in turn, and
only the ratio of such a pair counts; processor time leaves out what other programs took.
"""

import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

Call = Callable[[], object]
Clock = Callable[[], float]

CONFIDENCE = 0.95
# With fewer pairs no two of them enclose the median with 95 % confidence.
FEWEST_PAIRS = 6
_OFTEN = 3
# seconds a figure takes at least: most of its calls then follow one of their own kind
_SHORTEST = 0.03


@dataclass(frozen=True)
class Limits:
    """Rounds go on until `seconds` of wall time have passed, at least `rounds` of them; a ratio
    known to +-`tolerance` (a share of it) is left alone from then on."""

    seconds: float
    rounds: int = FEWEST_PAIRS
    tolerance: float = 0.003

    def __post_init__(self) -> None:
        if self.rounds < FEWEST_PAIRS:
            raise ValueError(f"rounds is {self.rounds}; an interval needs {FEWEST_PAIRS}")


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios and a distribution-free 95 % interval of that median."""

    median: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Timed:
    """`seconds`: of one call, the median; `added`: what it takes beyond the plain graph's."""

    ratio: Ratio
    seconds: float
    added: float


def median_interval(values: Sequence[float]) -> Ratio:
    """The median lies between the k-th smallest and the k-th largest, k by the binomial tail.

    Raises ValueError for fewer than six values.
    """
    count = len(values)
    if count < FEWEST_PAIRS:
        raise ValueError(f"{count} values: a 95 % interval of a median needs {FEWEST_PAIRS}")
    ordered = sorted(values)
    outside = 0.0
    inward = -1
    while outside + math.comb(count, inward + 1) / 2**count <= (1 - CONFIDENCE) / 2:
        inward += 1
        outside += math.comb(count, inward) / 2**count
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return Ratio(middle, ordered[inward], ordered[count - 1 - inward], count)


def compare(
    plain: Call,
    calls: Mapping[str, Call],
    limits: Limits,
    often: Collection[str] = (),
    clock: Clock = time.process_time,
) -> dict[str, Timed]:
    """Every call's time against the plain call's; those of `often` three times in each round."""
    plain()
    repeats = _repeats(plain, clock)
    for call in calls.values():
        call()  # buffers are made on the first run
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    deadline = time.monotonic() + limits.seconds
    order = random.Random(0)  # noqa: S311  (no secret)
    unsure = list(calls)
    turn = 0
    while unsure and (turn < limits.rounds or time.monotonic() < deadline):
        agenda = [name for name in unsure for _ in range(_OFTEN if name in often else 1)]
        order.shuffle(agenda)
        for name in agenda:
            plain_first = len(pairs[name]) % 2 == 0
            pairs[name].append(_pair(plain, calls[name], repeats, clock, plain_first=plain_first))
        turn += 1
        unsure = [name for name in unsure if not _settled(pairs[name], limits)]
    return {name: _timed(found) for name, found in pairs.items()}


def _pair(
    plain: Call, call: Call, repeats: int, clock: Clock, *, plain_first: bool
) -> tuple[float, float]:
    """Seconds of one plain call and of one call."""
    if plain_first:
        return _seconds(plain, repeats, clock), _seconds(call, repeats, clock)
    taken = _seconds(call, repeats, clock)
    return _seconds(plain, repeats, clock), taken


def _seconds(call: Call, repeats: int, clock: Clock) -> float:
    """Of one call among several; the first, which finds another call's data in the caches, is
    not counted."""
    call()
    started = clock()
    for _ in range(repeats):
        call()
    return (clock() - started) / repeats


def _repeats(plain: Call, clock: Clock) -> int:
    """How many plain calls last long enough to be timed."""
    fastest = min(_seconds(plain, 3, clock) for _ in range(3))
    return max(1, math.ceil(_SHORTEST / max(fastest, 1e-6)))


def _settled(pairs: Sequence[tuple[float, float]], limits: Limits) -> bool:
    if len(pairs) < limits.rounds:
        return False
    ratio = median_interval([taken / plain for plain, taken in pairs])
    return ratio.high - ratio.low <= 2 * limits.tolerance * ratio.median


def _timed(pairs: Sequence[tuple[float, float]]) -> Timed:
    plain = sorted(pair[0] for pair in pairs)[len(pairs) // 2]
    ratio = median_interval([taken / plain for plain, taken in pairs])
    return Timed(ratio, ratio.median * plain, (ratio.median - 1) * plain)
