"""What a finite calibration set can promise: published numbers, simulation, uniformity."""

import math

import numpy as np
import pytest
from scipy import stats

from service.bundle import p_values, threshold_at
from training.evaluation.calibration import (
    acceptance_interval,
    calibration_check,
    realised_interval,
    uniformity,
)


@pytest.mark.parametrize(
    ("size", "low", "high"), [(100, 91.1, 98.0), (1000, 93.8, 96.1), (5000, 94.5, 95.5)]
)
def test_acceptance_interval_at_known_sizes(size, low, high):
    ends = acceptance_interval(size, 0.95)
    assert [round(100 * end, 1) for end in ends] == [low, high]


@pytest.mark.parametrize(("size", "level"), [(19, 0.95), (100, 0.95), (999, 0.9), (500, 0.99)])
def test_acceptance_interval_against_scipy_and_simulation(size, level):
    rank = math.ceil((size + 1) * level - 1e-9)
    low, high = acceptance_interval(size, level)
    assert (low, high) == pytest.approx(stats.beta.ppf([0.05, 0.95], rank, size + 1 - rank))
    # for uniform scores the true acceptance of a threshold is the threshold
    rng = np.random.default_rng(1)
    thresholds = np.array(
        [threshold_at(np.sort(rng.uniform(size=size)), level) for _ in range(4000)]
    )
    inside = np.mean((low <= thresholds) & (thresholds <= high))
    assert inside == pytest.approx(0.9, abs=0.02)  # sd 0.5 points


def test_realised_interval_against_simulation():
    size, test_size, level = 200, 300, 0.95
    low, high = realised_interval(size, test_size, level, coverage=0.9)
    rng = np.random.default_rng(2)
    realised = np.empty(6000)
    for i in range(6000):
        threshold = threshold_at(np.sort(rng.normal(size=size)), level)
        realised[i] = np.mean(rng.normal(size=test_size) <= threshold)
    inside = np.mean((low <= realised) & (realised <= high))
    # at least 90 %, and no looser than two counts at the ends (sd of the mean 0.4 points)
    assert 0.885 < inside < 0.96
    tighter = np.mean((low < realised) & (realised < high))
    assert tighter < 0.915


def test_realised_interval_tends_to_the_true_acceptance():
    # with very many test inputs only the calibration set's own spread is left
    assert realised_interval(100, 200_000, 0.95, 0.9) == pytest.approx(
        acceptance_interval(100, 0.95, 0.9), abs=1e-3
    )


def test_calibration_check_rows():
    rng = np.random.default_rng(3)
    calibration, test = rng.normal(size=5000), rng.normal(size=10_000)
    rows = calibration_check(calibration, test)
    assert [row.nominal for row in rows] == [0.9, 0.95, 0.99]
    for row in rows:
        assert row.threshold == threshold_at(np.sort(calibration), row.nominal)
        assert row.realised == np.mean(test <= row.threshold)
        assert (row.low, row.high) == realised_interval(5000, 10_000, row.nominal)
        assert row.inside
        assert row.tied == 0


def test_calibration_check_notices_over_concentrated_calibration_scores():
    rng = np.random.default_rng(4)
    rows = calibration_check(0.9 * rng.normal(size=5000), rng.normal(size=10_000))
    assert not any(row.inside for row in rows)
    assert all(row.realised < row.low for row in rows)


def test_calibration_check_seldom_cries_wolf():
    rng = np.random.default_rng(5)
    rows = [
        row
        for _ in range(200)
        for row in calibration_check(rng.normal(size=300), rng.normal(size=500), levels=(0.9, 0.95))
    ]
    assert np.mean([not row.inside for row in rows]) < 0.025  # promised: 0.01


def test_ties_are_counted():
    scores = np.r_[np.zeros(900), np.ones(100)]
    (row,) = calibration_check(scores, scores, levels=(0.95,))
    assert (row.realised, row.tied, row.inside) == (1.0, 99, False)


def test_a_level_beyond_the_calibration_size_has_no_row():
    rows = calibration_check(np.arange(50.0), np.arange(50.0))
    assert [row.nominal for row in rows] == [0.9, 0.95]
    with pytest.raises(ValueError, match="at least 99 are needed"):
        acceptance_interval(50, 0.99)
    acceptance_interval(99, 0.99)
    with pytest.raises(ValueError, match="at least 19 are needed"):
        realised_interval(18, 10, 0.95)
    realised_interval(19, 10, 0.95)


def test_uniformity_is_the_distance_of_the_bundles_p_values():
    rng = np.random.default_rng(6)
    calibration, test = rng.integers(0, 40, 60), rng.integers(0, 50, 80)  # ties and drift
    p = p_values(np.sort(calibration), test)
    lattice = np.arange(1, 62) / 61
    expected = max(abs(np.mean(p <= u + 1e-12) - u) for u in lattice)
    assert uniformity(calibration, test).statistic == pytest.approx(expected, abs=1e-12)


def test_uniformity_keeps_its_significance_and_sees_a_shift():
    rng = np.random.default_rng(7)
    checks = [uniformity(rng.normal(size=400), rng.normal(size=600), 0.05) for _ in range(1500)]
    share = np.mean([not check.uniform for check in checks])
    # the asymptotic critical value is slightly conservative; sd 0.6 points
    assert 0.02 < share < 0.07
    shifted = uniformity(rng.normal(size=2000), rng.normal(0.2, 1, size=2000))
    assert not shifted.uniform
    assert shifted.statistic > shifted.critical


def test_critical_value_is_smirnovs():
    check = uniformity(np.arange(1000.0), np.arange(2000.0), significance=0.01)
    assert check.critical == pytest.approx(1.6276 * math.sqrt(1 / 1000 + 1 / 2000), rel=1e-3)


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="calibration scores: no scores"):
        calibration_check([], [1.0])
    with pytest.raises(ValueError, match="test-ID scores: 1 of 1 are NaN"):
        uniformity([1.0], [math.nan])
    with pytest.raises(ValueError, match="coverage"):
        acceptance_interval(100, 0.95, coverage=1.5)
    with pytest.raises(ValueError, match="test_size"):
        realised_interval(100, 0, 0.95)
    with pytest.raises(ValueError, match="id_acceptance"):
        acceptance_interval(100, 1.0)
