"""CUSUM and martingale of one detector, the alarms they gave, and what survives a restart."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.drift.bets import Bets
from service.drift.cusum import Cusum
from service.drift.martingale import LOG_CAPITAL_OF_ALARM, Martingale
from service.drift.report import Began, CusumReport, MartingaleReport


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
        self._bets = bets
        self._run_length = run_length
        self._cusum = Cusum(bets.count, run_length, now)
        self._martingale = Martingale(bets.count)
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
        gains = self._bets.log_payoffs_of(scores)
        for alarm in self._cusum.update(gains, times):
            place = self.inputs + alarm.index
            if self._drifting_since is None or place - self._alarm_input > window:
                self._drifting_since = alarm.since
            self.alarms += 1
            self._alarm_input = place
            self._begin_again(float(times[alarm.index]))
            self._alarm_at = self.began_at
        for index in self._martingale.update(gains):
            self._martingale_alarms += 1
            self._martingale_alarm_at = float(times[index])
        self.inputs += len(scores)

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
            evidence=self._cusum.share_of_alarm,
            run_length=self._run_length,
            alarms=self.alarms,
            last_alarm=as_time(self._alarm_at),
            drifting=drifting,
            since=as_time(self._drifting_since) if drifting else None,
        )

    def martingale_report(self) -> MartingaleReport:
        return MartingaleReport(
            log_capital=self._martingale.log_capital,
            log_capital_of_alarm=LOG_CAPITAL_OF_ALARM,
            alarms=self._martingale_alarms,
            last_alarm=as_time(self._martingale_alarm_at),
        )

    def state(self) -> SequentialState:
        return SequentialState(
            evidence=self._cusum.evidence.tolist(),
            since=self._cusum.since.tolist(),
            resting=self._cusum.resting,
            stakes=self._martingale.stakes.tolist(),
            staked_inputs=self._martingale.inputs,
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
        if lengths != {self._bets.count}:
            return False
        self._cusum.evidence = np.array(state.evidence)
        self._cusum.since = np.array(state.since)
        self._cusum.resting = state.resting
        self._martingale.stakes = np.array(state.stakes)
        self._martingale.inputs = state.staked_inputs
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
