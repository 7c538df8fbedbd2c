"""The sequential alarms of many detectors at once: what each would do alone, for a fraction of it.

Step by step over the inputs, all bets of all detectors beside each other: a row of numbers costs
hardly more than one of them.  Whoever rests, or gives an alarm on the way, goes alone.

Rows are laid out bet by bet, the d detectors of each beside each other: (n, k * d).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.drift.martingale import SIGNIFICANCE, unspent
from service.drift.sequential import Sequential

Array = NDArray[np.float64]


def update_all(
    alarms: Sequence[Sequential], scores: NDArray[np.floating], times: Array, window: int
) -> None:
    """Scores (n, d) of d detectors, times (n,): as Sequential.update of each column."""
    together = [place for place, one in enumerate(alarms) if one.fits(alarms[0])]
    quiet: set[int] = set()
    if len(together) > 1:
        some = [alarms[place] for place in together]
        done = _advance(some, scores[:, together].astype(np.float64), times)
        quiet = {place for place, one in zip(together, done, strict=True) if one}
    for place, one in enumerate(alarms):
        if place not in quiet:
            one.update(scores[:, place], times, window)


def _advance(alarms: Sequence[Sequential], scores: Array, times: Array) -> list[bool]:
    """Which of them took the inputs in; the others are as they were."""
    log_payoffs = _log_payoffs(alarms, scores)
    size, lanes = log_payoffs.shape
    by_bet = (lanes // len(alarms), len(alarms))
    stakes, capital = _stakes(alarms, np.exp(log_payoffs))
    evidence = _evidence(alarms, log_payoffs)
    levels = np.array([one.cusum.alarm_level for one in alarms])
    loud = (evidence.reshape(size, *by_bet).max(axis=1) >= levels).any(axis=0)
    loud |= (capital >= 1 / SIGNIFICANCE).any(axis=0)
    since = _since(evidence, times, _row([one.cusum.since for one in alarms]))
    ends = [row.reshape(by_bet) for row in (evidence[-1], since, stakes)]
    for place, one in enumerate(alarms):
        if not loud[place]:
            one.move_on(size, *(end[:, place].copy() for end in ends))
    return (~loud).tolist()


def _row(states: Sequence[Array]) -> Array:
    """(k,) of each of d detectors -> (k * d,)."""
    return np.stack(states, axis=1).ravel()


def _log_payoffs(alarms: Sequence[Sequential], scores: Array) -> Array:
    """Scores (n, d) -> logarithms of the payoffs (n, k * d)."""
    watched = np.stack([one.bets.watched for one in alarms], axis=1)  # (l, d)
    tables = np.stack([one.bets.log_payoffs for one in alarms], axis=1)  # (k, d, l + 1)
    exceeded = np.zeros(scores.shape, np.intp)
    for level in watched:
        exceeded += scores > level
    places = exceeded + np.arange(len(alarms)) * tables.shape[2]
    found = np.empty((len(scores), *tables.shape[:2]))
    for bet, table in enumerate(tables):
        found[:, bet] = table.ravel().take(places)
    return found.reshape(len(scores), -1)


def _evidence(alarms: Sequence[Sequential], log_payoffs: Array) -> Array:
    """CUSUM after each input (n, k * d), in place of the payoffs."""
    before = _row([one.cusum.evidence for one in alarms])
    kept = np.empty_like(before)
    for row in log_payoffs:
        np.maximum(before, 0, out=kept)
        before = np.add(kept, row, out=row)
    return log_payoffs


def _stakes(alarms: Sequence[Sequential], payoffs: Array) -> tuple[Array, Array]:
    """Payoffs (n, k * d) -> stakes at the end (k * d,), capital after each input (n, d)."""
    size, bets = len(payoffs), len(alarms[0].martingale.stakes)
    counts = [one.martingale.inputs for one in alarms]
    unspent_from = {count: unspent(count, size + 1) for count in set(counts)}
    kept = np.stack([unspent_from[count] for count in counts], axis=1)  # (n + 1, d)
    added = np.tile((kept[:-1] - kept[1:]) / bets, (1, bets))
    before = _row([one.martingale.stakes for one in alarms])
    # a certain drift may exceed any number before the batch ends; the crossing stands anyway
    with np.errstate(over="ignore"):
        for row, more in zip(payoffs, added, strict=True):
            np.add(before, more, out=more)
            before = np.multiply(more, row, out=row)
        capital = payoffs.reshape(size, bets, len(alarms)).sum(axis=1) + kept[1:]
    return before, capital


def _since(evidence: Array, times: Array, before: Array) -> Array:
    """Evidence (n, lanes) -> time of the last input that left each lane without any (lanes,)."""
    since = np.full_like(before, times[-1])
    (growing,) = np.nonzero(evidence[-1] > 0)
    without = evidence[::-1, growing] <= 0
    ago = without.argmax(axis=0)
    since[growing] = np.where(without.any(axis=0), times[len(times) - 1 - ago], before[growing])
    return since
