"""Conformal CUSUM: several bets at once, each forgetting its losses.

S_t = max(S_(t-1), 0) + log payoff_t; the alarm comes when one of the k bets reaches
ln(k * run_length).  While nothing drifts, false alarms are on average at least `run_length`
inputs apart, for the share bets.CONFIDENCE of all calibration sets; inputs must be independent.
Source: Page 1954; Shin, Ramdas & Rinaldo, E-detectors, arXiv:2203.03532, theorem 2.4.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# an alarm is given once in so many inputs at most: during a drift they say nothing new
REST = 100


@dataclass(frozen=True)
class CusumAlarm:
    """The input that raised it, by its place in the batch; when the evidence began to grow."""

    index: int
    since: float


def cusum_path(start: NDArray[np.float64], gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """S (k,) before, log payoffs (k, n) -> S after each input (k, n)."""
    reached = np.cumsum(gains, axis=1)
    reached += np.maximum(start, 0)[:, None]
    lowest = np.minimum.accumulate(reached[:, :-1], axis=1)
    reached[:, 1:] -= np.minimum(lowest, 0, out=lowest)
    return reached


class Cusum:
    """`evidence` (k,): S of every bet; `since` (k,): time of the last input that left it at 0;
    `resting`: inputs still to be passed over after an alarm.
    """

    def __init__(self, bets: int, run_length: float, now: float) -> None:
        self.alarm_level = math.log(bets * run_length)
        self.evidence = np.zeros(bets)
        self.since = np.full(bets, now)
        self.resting = 0

    @property
    def share_of_alarm(self) -> float:
        """0 without evidence, 1 where an alarm is given."""
        return max(0.0, float(self.evidence.max())) / self.alarm_level

    def update(self, gains: NDArray[np.float64], times: NDArray[np.float64]) -> list[CusumAlarm]:
        """Log payoffs (k, n), times (n,) -> the alarms; after each it starts from 0 again."""
        alarms: list[CusumAlarm] = []
        place = 0
        size = gains.shape[1]
        while place < size:
            if self.resting:
                passed = min(self.resting, size - place)
                self.resting -= passed
                place += passed
                self.since[:] = times[place - 1]
                continue
            path = cusum_path(self.evidence, gains[:, place:])
            over = path.max(axis=0) >= self.alarm_level
            steps = int(over.argmax()) + 1 if over.any() else size - place
            self._note_since(path[:, :steps], times[place : place + steps])
            self.evidence = path[:, steps - 1].copy()
            place += steps
            if over.any():
                leading = int(self.evidence.argmax())
                alarms.append(CusumAlarm(place - 1, float(self.since[leading])))
                self.evidence = np.zeros_like(self.evidence)
                self.resting = REST
        return alarms

    def _note_since(self, path: NDArray[np.float64], times: NDArray[np.float64]) -> None:
        without = path <= 0
        last = path.shape[1] - 1 - without[:, ::-1].argmax(axis=1)
        self.since = np.where(without.any(axis=1), times[last], self.since)
