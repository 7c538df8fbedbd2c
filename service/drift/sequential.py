"""Both sequential procedures of one detector, the alarms they gave, what survives a restart."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from service.drift.bets import Bets
from service.drift.martingale import LOG_CAPITAL_OF_ALARM, Martingale, update_martingales
from service.drift.report import Began, MartingaleReport, ShiryaevRobertsReport
from service.drift.shiryaev_roberts import Alarm, ShiryaevRoberts, update_procedures

Array = NDArray[np.float64]


class SequentialState(BaseModel):
    """What a restart keeps.  Times are Unix seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    held: list[float]
    held_times: list[float]
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
        self.change = ShiryaevRoberts(bets.count, run_length)
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

    def update(self, scores: NDArray[np.floating], times: Array, window: int) -> None:
        """Scores (n,), times (n,); an alarm within `window` inputs of the last belongs to it."""
        update_each([self], scores[:, None], times, window)

    def take(
        self,
        changes: Sequence[Alarm],
        martingale_alarms: Sequence[int],
        times: Array,
        window: int,
    ) -> None:
        """Inputs of these times (n,) led to these alarms."""
        for alarm in changes:
            place = self.inputs + alarm.index
            if self._drifting_since is None or place - self._alarm_input > window:
                self._drifting_since = alarm.since
            self.alarms += 1
            self._alarm_input = place
            self._begin_again(float(times[alarm.index]))
            self._alarm_at = self.began_at
        for index in martingale_alarms:
            self._martingale_alarms += 1
            self._martingale_alarm_at = float(times[index])
        self.inputs += len(times)

    def fits(self, other: Self) -> bool:
        """Whether both can go side by side: as many bets on as many scores."""
        return self.bets.log_payoffs.shape == other.bets.log_payoffs.shape

    def move_on(self, size: int, held: Array, held_times: Array, stakes: Array) -> None:
        """Take what `size` inputs without an alarm led to, each (k,)."""
        self.change.held, self.change.held_times = held, held_times
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

    def change_report(self, now: float, window: int, seconds: float) -> ShiryaevRobertsReport:
        drifting = self.drifting(now, window, seconds)
        return ShiryaevRobertsReport(
            evidence=self.change.share_of_alarm,
            run_length=self.change.run_length,
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
            held=self.change.held.tolist(),
            held_times=self.change.held_times.tolist(),
            resting=self.change.resting,
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
        lengths = {len(state.held), len(state.held_times), len(state.stakes)}
        if lengths != {self.bets.count}:
            return False
        self.change.held = np.array(state.held)
        self.change.held_times = np.array(state.held_times)
        self.change.resting = state.resting
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


def update_each(
    alarms: Sequence[Sequential], scores: NDArray[np.floating], times: Array, window: int
) -> None:
    """Scores (n, d) of d detectors that fit each other, times (n,): input by input."""
    gains = np.stack([one.bets.log_payoffs_of(scores[:, d]) for d, one in enumerate(alarms)])
    changes = update_procedures([one.change for one in alarms], gains, times)
    reached = update_martingales([one.martingale for one in alarms], gains)
    for one, found, places in zip(alarms, changes, reached, strict=True):
        one.take(found, places, times, window)


def as_time(unix_seconds: float | None) -> datetime | None:
    return None if unix_seconds is None else datetime.fromtimestamp(unix_seconds, UTC)
