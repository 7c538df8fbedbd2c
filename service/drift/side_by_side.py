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
    payoffs = _payoffs(alarms, scores)
    size, lanes = payoffs.shape
    by_bet = (lanes // len(alarms), len(alarms))
    before = np.stack(
        [
            _row([one.change.held for one in alarms]),
            _row([one.change.held_times for one in alarms]),
            _row([one.martingale.stakes for one in alarms]),
        ]
    )
    kept = _unspent([one.martingale.inputs for one in alarms], size + 1)
    added = np.empty((size, *before.shape))
    added[:, 0] = 1
    added[:, 1] = times[:, None]
    added[:, 2] = np.tile((kept[:-1] - kept[1:]) / by_bet[0], (1, by_bet[0]))
    # a certain drift may exceed any number before the batch ends; the crossing stands anyway
    with np.errstate(over="ignore"):
        path = _stakes(before, payoffs, added)
        held, _, stakes = (path[:, row].reshape(size, *by_bet) for row in range(3))
        levels = np.array([one.change.run_length for one in alarms])
        loud = (held.mean(axis=1) >= levels).any(axis=0)
        loud |= (stakes.sum(axis=1) + kept[1:] >= 1 / SIGNIFICANCE).any(axis=0)
    ends = path[-1].reshape(3, *by_bet)
    for place, one in enumerate(alarms):
        if not loud[place]:
            one.move_on(size, *ends[:, :, place].copy())
    return (~loud).tolist()


def _row(states: Sequence[Array]) -> Array:
    """(k,) of each of d detectors -> (k * d,)."""
    return np.stack(states, axis=1).ravel()


def _payoffs(alarms: Sequence[Sequential], scores: Array) -> Array:
    """Scores (n, d) -> payoffs (n, k * d)."""
    watched = np.stack([one.bets.watched for one in alarms], axis=1)  # (l, d)
    tables = np.stack([one.bets.payoffs for one in alarms], axis=1)  # (k, d, l + 1)
    exceeded = np.zeros(scores.shape, np.intp)
    for level in watched:
        exceeded += scores > level
    places = exceeded + np.arange(len(alarms)) * tables.shape[2]
    found = np.empty((len(scores), *tables.shape[:2]))
    for bet, table in enumerate(tables):
        found[:, bet] = table.ravel().take(places)
    return found.reshape(len(scores), -1)


def _unspent(counts: Sequence[int], size: int) -> Array:
    """What each martingale has not put on any bet, after so many inputs and more (size, d)."""
    by_count = {count: unspent(count, size) for count in set(counts)}
    return np.stack([by_count[count] for count in counts], axis=1)


def _stakes(before: Array, payoffs: Array, added: Array) -> Array:
    """Stakes (3, lanes), payoffs (n, lanes), what is added before each input (n, 3, lanes) ->
    stakes after each, in place of what was added.
    """
    for row, more in zip(payoffs, added, strict=True):
        np.add(before, more, out=more)
        before = np.multiply(more, row, out=more)
    return added
