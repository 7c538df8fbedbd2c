"""Conformal Shiryaev-Roberts procedure: every bet, begun anew at every input.

R_t = (R_(t-1) + 1) payoff_t is what a bet holds that put 1 on each input so far; the alarm comes
when the mean of the k bets reaches `run_length`.  While nothing drifts that mean gains one an input
on average at most, so false alarms are on average at least `run_length` inputs apart, for the share
bets.CONFIDENCE of all calibration sets; inputs must be independent.  Page's CUSUM keeps only the
best beginning instead of their sum, and the run length it can promise for the same alarms is far
shorter.
Source: Shiryaev 1963; Roberts 1966; Shin, Ramdas & Rinaldo, E-detectors, arXiv:2203.03532,
theorem 2.4; conformal: Vovk et al. 2021, arXiv:2102.10439.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.drift.stakes import staked_path

Array = NDArray[np.float64]
# an alarm is given once in so many inputs at most: during a drift they say nothing new
REST = 100


@dataclass(frozen=True)
class Alarm:
    """The input that raised it, by its place in the batch; when the drift began, as estimated."""

    index: int
    since: float


class ShiryaevRoberts:
    """`held` (k,): R of every bet; `held_times` (k,): the same with the time of each beginning as
    its weight; `resting`: inputs still to be passed over after an alarm.
    """

    def __init__(self, bets: int, run_length: float) -> None:
        self.run_length = run_length
        self.held: Array = np.zeros(bets)
        self.held_times: Array = np.zeros(bets)
        self.resting = 0

    @property
    def share_of_alarm(self) -> float:
        """0 without evidence, 1 where an alarm is given; logarithmic between."""
        return math.log(max(1.0, float(self.held.mean()))) / math.log(self.run_length)

    def update(self, gains: Array, times: Array) -> list[Alarm]:
        """Log payoffs (k, n), times (n,) -> the alarms; after each it starts from 0 again."""
        return update_procedures([self], gains[None], times)[0]

    def since(self) -> float:
        """The mean beginning of what the leading bet holds."""
        leading = int(self.held.argmax())
        return float(self.held_times[leading] / self.held[leading])


def update_procedures(
    procedures: Sequence[ShiryaevRoberts], gains: Array, times: Array
) -> list[list[Alarm]]:
    """Log payoffs (d, k, n) of d procedures, times (n,) -> the alarms of each.

    In blocks no longer than the rest after an alarm: a block holds one alarm of each at most.
    """
    alarms: list[list[Alarm]] = [[] for _ in procedures]
    for first in range(0, len(times), REST):
        block = slice(first, first + REST)
        for place, alarm in _update_block(procedures, gains[..., block], times[block]):
            alarms[place].append(Alarm(first + alarm.index, alarm.since))
    return alarms


def _update_block(
    procedures: Sequence[ShiryaevRoberts], gains: Array, times: Array
) -> list[tuple[int, Alarm]]:
    """As update_procedures of n <= REST; with the number of the procedure."""
    size = len(times)
    resting = np.array([one.resting for one in procedures])
    levels = np.array([one.run_length for one in procedures])
    added = (np.arange(size) >= resting[:, None]).astype(np.float64)
    # a certain drift may exceed any number before the block ends; the crossing stands
    with np.errstate(over="ignore", invalid="ignore"):
        before = np.array([[one.held, one.held_times] for one in procedures]).swapaxes(0, 1)
        held, held_times = staked_path(before, gains, np.stack([added, added * times]))
        over = held.mean(axis=1) >= levels[:, None]
    crossed: list[bool] = over.any(axis=1).tolist()
    last = np.where(crossed, over.argmax(axis=1), size - 1)
    alarms: list[tuple[int, Alarm]] = []
    for place, one in enumerate(procedures):
        end = int(last[place])
        one.held, one.held_times = held[place, :, end].copy(), held_times[place, :, end].copy()
        one.resting = max(0, one.resting - size)
        if crossed[place]:
            alarms.append((place, Alarm(end, one.since())))
            one.held, one.held_times = np.zeros_like(one.held), np.zeros_like(one.held)
            one.resting = REST - (size - 1 - end)
    return alarms
