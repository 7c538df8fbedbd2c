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
        alarms: list[Alarm] = []
        place, size = 0, gains.shape[1]
        while place < size:
            if self.resting:
                passed = min(self.resting, size - place)
                self.resting -= passed
                place += passed
                continue
            added = np.full(size - place, 1.0)
            # a certain drift may exceed any number before the batch ends; the crossing stands
            with np.errstate(over="ignore"):
                path: Array = staked_path(self.held, gains[:, place:], added)
                over = path.mean(axis=0) >= self.run_length
            steps = int(over.argmax()) + 1 if over.any() else size - place
            part = slice(place, place + steps)
            self.held = path[:, steps - 1].copy()
            weighted: Array = staked_path(self.held_times, gains[:, part], times[part])
            self.held_times = weighted[:, -1].copy()
            place += steps
            if over.any():
                alarms.append(Alarm(place - 1, self._since()))
                self.held = np.zeros_like(self.held)
                self.held_times = np.zeros_like(self.held_times)
                self.resting = REST
        return alarms

    def _since(self) -> float:
        """The mean beginning of what the leading bet holds."""
        leading = int(self.held.argmax())
        return float(self.held_times[leading] / self.held[leading])
