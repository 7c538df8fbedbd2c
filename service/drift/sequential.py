"""CUSUM and martingale of one detector, the alarms they gave, and what survives a restart."""

from datetime import UTC, datetime
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.drift.bets import Bets
from service.drift.cusum import Cusum
from service.drift.martingale import LOG_CAPITAL_OF_ALARM, Martingale
from service.drift.report import Began, CusumReport, MartingaleReport

Array = NDArray[np.float64]


class SequentialState(BaseModel):
    """What a restart keeps.  Times are Unix seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    evidence: list[float]
    since: list[float]
    resting: int
    stakes: list[float]
    staked_inputs: int
    inputs: int
    alarms: int
    alarm_at: float | None
    alarm_input: int
    drifting_since: float | None
    martingale_alarms: int
    martingale_alarm_at: float | None
    began_at: float
    began_because: Began


class Sequential:
    """Not for several threads at once."""

    def __init__(self, bets: Bets, run_length: float, now: float, because: Began) -> None:
        self.bets = bets
        self._run_length = run_length
        self.cusum = Cusum(bets.count, run_length, now)
        self.martingale = Martingale(bets.count)
        self.inputs = 0
        self.alarms = 0
        self._alarm_at: float | None = None
        self._alarm_input = 0
        self._drifting_since: float | None = None
        self._martingale_alarms = 0
        self._martingale_alarm_at: float | None = None
        self.began_at = now
        self.began_because: Began = because

    def update(self, scores: NDArray[np.floating], times: NDArray[np.float64], window: int) -> None:
        """Scores (n,), times (n,); an alarm within `window` inputs of the last belongs to it."""
        gains = self.bets.log_payoffs_of(scores)
        for alarm in self.cusum.update(gains, times):
            place = self.inputs + alarm.index
            if self._drifting_since is None or place - self._alarm_input > window:
                self._drifting_since = alarm.since
            self.alarms += 1
            self._alarm_input = place
            self._begin_again(float(times[alarm.index]))
            self._alarm_at = self.began_at
        for index in self.martingale.update(gains):
            self._martingale_alarms += 1
            self._martingale_alarm_at = float(times[index])
        self.inputs += len(scores)

    def fits(self, other: Self) -> bool:
        """Whether both can go side by side: as many bets on as many scores, none at rest."""
        shapes = {one.bets.log_payoffs.shape for one in (self, other)}
        return len(shapes) == 1 and not self.cusum.resting

    def move_on(self, size: int, evidence: Array, since: Array, stakes: Array) -> None:
        """Take what `size` inputs without an alarm led to, each (k,)."""
        self.cusum.evidence, self.cusum.since = evidence, since
        self.martingale.stakes = stakes
        self.martingale.inputs += size
        self.inputs += size

    def drifting(self, now: float, window: int, seconds: float) -> bool:
        """The last alarm lies within the window, by count and by time."""
        return (
            self._alarm_at is not None
            and self.inputs - self._alarm_input <= window
            and now - self._alarm_at <= seconds
        )

    def cusum_report(self, now: float, window: int, seconds: float) -> CusumReport:
        drifting = self.drifting(now, window, seconds)
        return CusumReport(
            evidence=self.cusum.share_of_alarm,
            run_length=self._run_length,
            alarms=self.alarms,
            last_alarm=as_time(self._alarm_at),
            drifting=drifting,
            since=as_time(self._drifting_since) if drifting else None,
        )

    def martingale_report(self) -> MartingaleReport:
        return MartingaleReport(
            log_capital=self.martingale.log_capital,
            log_capital_of_alarm=LOG_CAPITAL_OF_ALARM,
            alarms=self._martingale_alarms,
            last_alarm=as_time(self._martingale_alarm_at),
        )

    def state(self) -> SequentialState:
        return SequentialState(
            evidence=self.cusum.evidence.tolist(),
            since=self.cusum.since.tolist(),
            resting=self.cusum.resting,
            stakes=self.martingale.stakes.tolist(),
            staked_inputs=self.martingale.inputs,
            inputs=self.inputs,
            alarms=self.alarms,
            alarm_at=self._alarm_at,
            alarm_input=self._alarm_input,
            drifting_since=self._drifting_since,
            martingale_alarms=self._martingale_alarms,
            martingale_alarm_at=self._martingale_alarm_at,
            began_at=self.began_at,
            began_because=self.began_because,
        )

    def restore(self, state: SequentialState) -> bool:
        """False, and nothing changes, where the state is of other bets."""
        lengths = {len(state.evidence), len(state.since), len(state.stakes)}
        if lengths != {self.bets.count}:
            return False
        self.cusum.evidence = np.array(state.evidence)
        self.cusum.since = np.array(state.since)
        self.cusum.resting = state.resting
        self.martingale.stakes = np.array(state.stakes)
        self.martingale.inputs = state.staked_inputs
        self.inputs = state.inputs
        self.alarms = state.alarms
        self._alarm_at = state.alarm_at
        self._alarm_input = state.alarm_input
        self._drifting_since = state.drifting_since
        self._martingale_alarms = state.martingale_alarms
        self._martingale_alarm_at = state.martingale_alarm_at
        self.began_at = state.began_at
        self.began_because = state.began_because
        return True

    def _begin_again(self, now: float) -> None:
        self.began_at = now
        self.began_because = "alarm"


def as_time(unix_seconds: float | None) -> datetime | None:
    return None if unix_seconds is None else datetime.fromtimestamp(unix_seconds, UTC)
