"""First alarms of both sequential procedures over a whole stream, and how soon they come."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.drift.bets import Bets
from service.drift.martingale import Martingale
from service.drift.shiryaev_roberts import ShiryaevRoberts
from service.settings import Settings

Array = NDArray[np.float64]
STREAMS, BEFORE, HORIZON = 400, 2_000, 20_000
RUN_LENGTH: float = Settings.model_fields["drift_run_length"].default


def change_alarm(bets: Bets, scores: Array) -> int | None:
    """Place of the first alarm."""
    alarms = ShiryaevRoberts(bets.count, RUN_LENGTH).update(
        bets.log_payoffs_of(scores), np.zeros(len(scores))
    )
    return alarms[0].index if alarms else None


def martingale_alarm(bets: Bets, scores: Array) -> int | None:
    alarms = Martingale(bets.count).update(bets.log_payoffs_of(scores))
    return alarms[0] if alarms else None


ALARMS: dict[str, Callable[[Bets, Array], int | None]] = {
    "shiryaev_roberts": change_alarm,
    "martingale": martingale_alarm,
}


def delays(bets: Bets, test_id: Array, ood: Array, share: float, seed: int) -> dict[str, object]:
    """Median and 90 % quantile, null beyond the horizon; alarms before the change leave the run."""
    rng = np.random.default_rng(seed)
    horizon = HORIZON if share < 0.05 else 3_000
    found: dict[str, list[float]] = {name: [] for name in ALARMS}
    for _ in range(STREAMS):
        stream = rng.choice(test_id, BEFORE + horizon)
        strange = np.flatnonzero(rng.random(horizon) < share) + BEFORE
        stream[strange] = rng.choice(ood, len(strange))
        for name, alarm in ALARMS.items():
            place = alarm(bets, stream)
            if place is None or place >= BEFORE:
                found[name].append(np.inf if place is None else place - BEFORE + 1)
    return {
        name: {
            "median": _finite(np.quantile(places, 0.5, method="higher")),
            "q90": _finite(np.quantile(places, 0.9, method="higher")),
            "runs": len(places),
        }
        for name, places in found.items()
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
