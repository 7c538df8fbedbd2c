"""The share of OOD among unlabelled inputs: bounds that hold as often as they say, and see OOD."""

import numpy as np
import pytest
from scipy import stats

from training.advise.mixture import estimated_ood_share, least_ood_share, upper_share
from training.advise.records import Share
from training.evaluation.intervals import wilson_interval


def share(count: int, total: int) -> Share:
    return Share(count / total, total, *wilson_interval(count, total))


def test_the_upper_bound_is_clopper_and_pearsons() -> None:
    for count, total in ((0, 10), (3, 10), (9, 10), (10, 10)):
        exact = stats.binomtest(count, total, alternative="less").proportion_ci(0.95, "exact")
        assert upper_share(count, total, 0.95) == pytest.approx(exact.high)


@pytest.mark.parametrize(("true", "shift"), [(0.0, 0.0), (0.2, 3.0), (0.2, 1.0)])
def test_the_bound_holds_at_least_as_often_as_it_says(true: float, shift: float) -> None:
    """400 trials at 95 %: four standard deviations below would be 0.906."""
    held = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        calibration = rng.normal(size=200)
        ood = rng.random(150) < true
        held += least_ood_share(calibration, rng.normal(size=150) + shift * ood) <= true
    assert held / 400 > 0.906


def test_plain_ood_is_seen() -> None:
    rng = np.random.default_rng(0)
    calibration = rng.normal(size=2000)
    mixed = np.concatenate([rng.normal(size=700), rng.normal(8, 1, 300)])
    assert 0.2 < least_ood_share(calibration, mixed) <= 0.3
    few = np.concatenate([rng.normal(size=7), rng.normal(8, 1, 3)])
    assert least_ood_share(calibration, few) < 0.2  # ten inputs say little


def test_levels_that_the_calibration_cannot_promise_are_left_out() -> None:
    assert least_ood_share(np.arange(10.0), np.full(50, 99.0), levels=(0.99,)) == 0.0
    assert least_ood_share(np.arange(10.0), np.full(50, 99.0), levels=(0.5, 0.99)) > 0.5


def test_the_estimate_corrects_for_what_is_missed_and_for_false_alarms() -> None:
    """5 % of ID and 80 % of outliers are flagged: 20 % of 0.8 and 80 % of 0.05 make 0.2."""
    found = estimated_ood_share(share(100, 2000), share(160, 200), share(200, 1000))
    assert found is not None
    value, (low, high) = found
    assert value == pytest.approx(0.2)
    assert low < 0.2 < high
    assert high - low < 0.1


def test_without_a_difference_there_is_no_estimate() -> None:
    assert estimated_ood_share(share(5, 100), share(2, 20), share(20, 100)) is None
