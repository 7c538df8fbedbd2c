"""The sequential alarms of many detectors at once: what each would do alone, for a fraction of it.

What a bet holds passes a row of inputs as it would pass one linear function, so whole blocks of
inputs are worked off at once: what it held before is multiplied by all payoffs of the block, what
came in at an input by those from there on.  Within a block nothing is seen; a bound tells of whom
an alarm there is out of the question.  All others, and who rests, go input by input.

Rows are laid out detector by detector, the k bets of each beside each other: (n, d * k).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.drift.martingale import SIGNIFICANCE, unspent_of
from service.drift.sequential import Sequential, update_each

Array = NDArray[np.float64]
# longer blocks cost no less, and leave more to be gone through input by input
_BLOCK = 16


def update_all(
    alarms: Sequence[Sequential], scores: NDArray[np.floating], times: Array, window: int
) -> None:
    """Scores (n, d) of d detectors, times (n,): as Sequential.update of each column."""
    left = list(range(len(alarms)))
    while left:
        group = [place for place in left if alarms[place].fits(alarms[left[0]])]
        left = [place for place in left if place not in group]
        awake = [place for place in group if not alarms[place].change.resting]
        some = [alarms[place] for place in awake]
        done = _advance(some, scores[:, awake].astype(np.float64), times) if some else []
        quiet = {place for place, one in zip(awake, done, strict=True) if one}
        if loud := [place for place in group if place not in quiet]:
            update_each([alarms[place] for place in loud], scores[:, loud], times, window)


def _advance(alarms: Sequence[Sequential], scores: Array, times: Array) -> list[bool]:
    """Which of them took the inputs in; the others are as they were."""
    size, bets = len(scores), alarms[0].bets.count
    kept = unspent_of([one.martingale for one in alarms], size + 1).T
    payoffs = _in_blocks(_payoffs(alarms, scores), 1)
    most_grown = np.maximum(payoffs, 1).prod(axis=1)
    for place in reversed(range(_BLOCK - 1)):  # of each input, and of all after it in its block
        payoffs[:, place] *= payoffs[:, place + 1]
    gained = _gained(payoffs, times, (kept[:-1] - kept[1:]) / bets)
    path = np.empty((len(payoffs) + 1, *gained.shape[1:]))  # (blocks + 1, 3, d * k)
    path[0] = [
        np.concatenate([one.change.held for one in alarms]),
        np.concatenate([one.change.held_times for one in alarms]),
        np.concatenate([one.martingale.stakes for one in alarms]),
    ]
    # a certain drift may exceed any number before a block ends; such a one is not quiet
    with np.errstate(over="ignore", invalid="ignore"):
        for before, after, grown, more in zip(path, path[1:], payoffs[:, 0], gained, strict=False):
            np.multiply(before, grown, out=after)
            after += more
        held, stakes = path[:-1, 0] + _BLOCK, path[:-1, 2] + (kept[0] - kept[-1]).max() / bets
        by_detector = (len(payoffs), len(alarms), bets)
        means = (held * most_grown).reshape(by_detector).mean(axis=2)
        capitals = (stakes * most_grown).reshape(by_detector).sum(axis=2) + kept[0]
    levels = np.array([one.change.run_length for one in alarms])
    quiet = ((means < levels) & (capitals < 1 / SIGNIFICANCE)).all(axis=0)
    ends = path[-1].reshape(3, len(alarms), bets)
    done: list[bool] = quiet.tolist()
    for place, one in enumerate(alarms):
        if done[place]:
            one.move_on(size, *ends[:, place].copy())
    return done


def _payoffs(alarms: Sequence[Sequential], scores: Array) -> Array:
    """Scores (n, d) -> payoffs (n, d * k)."""
    watched = np.stack([one.bets.watched for one in alarms], axis=1)  # (l, d)
    rows = np.concatenate([one.bets.payoffs.T for one in alarms])  # (d * (l + 1), k)
    exceeded = np.zeros(scores.shape, np.intp)
    for level in watched:
        exceeded += scores > level
    exceeded += np.arange(len(alarms)) * (len(watched) + 1)
    return rows.take(exceeded, axis=0).reshape(len(scores), -1)


def _gained(grown: Array, times: Array, bought: Array) -> Array:
    """By what follows, (blocks, _BLOCK, d * k), what comes in at the inputs (n,) and goes to each
    bet of the martingales (n, d) -> what it becomes by the end of each block (blocks, 3, d * k).
    """
    blocks, _, lanes = grown.shape
    came = np.stack([np.ones_like(times), times], axis=1)
    changes = np.empty((blocks, 3, lanes))
    changes[:, :2] = _in_blocks(came, 0).transpose(0, 2, 1) @ grown
    by_bet = grown.reshape(blocks, _BLOCK, bought.shape[1], -1)
    weighted = np.einsum("bmd,bmdk->bdk", _in_blocks(bought, 0), by_bet)
    changes[:, 2] = weighted.reshape(blocks, lanes)
    return changes


def _in_blocks(rows: Array, filling: float) -> Array:
    """(n, c) -> (blocks, _BLOCK, c)."""
    missing = -len(rows) % _BLOCK
    if missing:
        rows = np.concatenate([rows, np.full((missing, rows.shape[1]), float(filling))])
    return rows.reshape(-1, _BLOCK, rows.shape[1])
