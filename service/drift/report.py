"""What GET /drift answers: every statistic, per model version and detector, and plain words.

`beyond` is true where chance alone would go so far once in 1 / SIGNIFICANCE looks at most, and the
window holds SMALLEST_WINDOW inputs.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

# of one look at one statistic
SIGNIFICANCE = 0.001
# below it no statistic of a window is judged
SMALLEST_WINDOW = 200

Began = Literal["first_seen", "alarm", "bundle_changed", "state_unreadable"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Distance(_Closed):
    """A distance from the calibration and the level it is held against."""

    value: float
    threshold: float
    beyond: bool


class KolmogorovSmirnov(_Closed):
    statistic: float
    p_value: float
    beyond: bool


class PValueHistogram(_Closed):
    """Counts of randomised conformal p-values in twenty equal parts, the smallest first, and the
    p-value of their being uniform."""

    counts: list[int]
    p_value: float
    beyond: bool


class OodRate(_Closed):
    """At the bundle's own acceptance; `low`..`high` is the 95 % Wilson interval, `beyond`: all of
    it lies above `expected_highest`, what the calibration's size leaves plausible."""

    count: int
    rate: float
    low: float
    high: float
    expected: float
    expected_highest: float
    beyond: bool


class WindowReport(_Closed):
    """The inputs of the sliding window; null where the calibration allows no such statistic."""

    size: int
    oldest: datetime
    judged: bool
    psi: Distance | None
    kolmogorov_smirnov: KolmogorovSmirnov
    wasserstein: Distance | None
    p_values: PValueHistogram
    ood_rate: OodRate


class ShiryaevRobertsReport(_Closed):
    """`evidence`: 1 gives an alarm and starts again from 0.  `run_length`: ID inputs between two
    false alarms, on average at least.  `drifting`: an alarm within the window; `since`: when the
    drift began, as estimated at the first of its alarms."""

    evidence: float
    run_length: float
    alarms: int
    last_alarm: datetime | None
    drifting: bool
    since: datetime | None


class MartingaleReport(_Closed):
    """Natural logarithms of the capital now and at the alarm; then it starts again from 0."""

    log_capital: float
    log_capital_of_alarm: float
    alarms: int
    last_alarm: datetime | None


class DetectorReport(_Closed):
    """`began`: since when the sequential alarms gather evidence, and why not for longer."""

    name: str
    inputs: int
    began: datetime
    began_because: Began
    window: WindowReport | None
    shiryaev_roberts: ShiryaevRobertsReport
    martingale: MartingaleReport


class LabelShare(_Closed):
    label: str
    share: float
    expected: float
    standard_errors: float


class LabelReport(_Closed):
    """Predicted labels of the window against those of the calibration inputs; `most_changed` lists
    the labels farthest from their share, at most ten."""

    size: int
    chi_square: float
    p_value: float
    jensen_shannon: Distance
    beyond: bool
    most_changed: list[LabelShare]


class ModelReport(_Closed):
    """`labels` is null without inputs, and where the bundle records no calibration labels."""

    name: str
    version: str
    summary: str
    drifting: bool
    since: datetime | None
    labels: LabelReport | None
    detectors: list[DetectorReport]


class DriftReport(_Closed):
    """`tracking` is false where OODSCORE_DRIFT_TRACKING turns it off; `models` is empty then."""

    tracking: bool
    models: list[ModelReport]
