"""Every drift statistic against scipy, brute force, or what it does while nothing drifts."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import spatial, special, stats

from service.drift.kolmogorov_smirnov import ks_p_value, ks_statistic
from service.drift.label_shift import (
    homogeneity,
    jensen_shannon,
    jensen_shannon_threshold,
    residuals,
)
from service.drift.ood_rate import wilson_interval
from service.drift.psi import SMALLEST_PSI, bin_counts, bin_edges, psi, psi_threshold
from service.drift.tails import (
    chi_square_quantile,
    chi_square_tail,
    gamma_quantile,
    gamma_tail,
    kolmogorov_tail,
    largest_share,
)
from service.drift.uniformity import p_value_counts, randomised_p_values, uniformity_p_value
from service.drift.wasserstein import bridge_integrals, wasserstein, wasserstein_threshold

Array = NDArray[np.float64]


def sample(seed: int, count: int, shift: float = 0.0) -> Array:
    """Skewed scores, ascending (count,)."""
    return np.sort(np.random.default_rng(seed).gamma(2.0, 1.5, count) + shift)


@pytest.mark.parametrize("shape", [0.5, 1.0, 4.5, 30.0, 500.0])
@pytest.mark.parametrize("relative", [0.0, 1e-3, 0.5, 0.99, 1.01, 2.0, 5.0])
def test_gamma_tail(shape: float, relative: float) -> None:
    x = relative * (shape + 1)
    assert gamma_tail(shape, x) == pytest.approx(special.gammaincc(shape, x), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("tail", [0.5, 0.01, 0.001, 1e-6])
def test_quantiles(tail: float) -> None:
    assert gamma_quantile(3.3, tail) == pytest.approx(stats.gamma.isf(tail, 3.3), rel=1e-9)
    for degrees in (1, 9, 99):
        expected = stats.chi2.isf(tail, degrees)
        assert chi_square_quantile(tail, degrees) == pytest.approx(expected, rel=1e-9)
        assert chi_square_tail(expected, degrees) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("x", [0.0, 0.2, 0.31, 0.5, 1.0, 1.36, 2.0, 4.0])
def test_kolmogorov_tail(x: float) -> None:
    assert kolmogorov_tail(x) == pytest.approx(stats.kstwobign.sf(x), rel=1e-9, abs=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 199), (1, 20), (50, 5000), (1000, 5000)])
def test_largest_share(successes: int, trials: int) -> None:
    expected = stats.beta.ppf(0.98, successes + 1, trials - successes)
    assert largest_share(successes, trials, 0.02) == pytest.approx(expected, rel=1e-8)
    assert largest_share(trials, trials, 0.02) == 1.0


def test_psi_by_hand() -> None:
    window, calibration = np.array([10, 20, 70]), np.array([300, 300, 400])
    actual, expected = (window + 0.5) / 101.5, (calibration + 0.5) / 1001.5
    by_hand = sum(
        (a - e) * math.log(a / e) for a, e in zip(actual.tolist(), expected.tolist(), strict=True)
    )
    assert psi(window, calibration) == pytest.approx(by_hand)
    assert psi(calibration, calibration) == 0


def test_psi_bins_hold_a_tenth_of_the_calibration_each() -> None:
    scores = sample(0, 1000)
    assert bin_counts(scores, bin_edges(scores)).tolist() == [100] * 10
    # one extreme score moves nothing: edges are the calibration's
    assert bin_counts(np.array([1e9]), bin_edges(scores)).tolist() == [0] * 9 + [1]


def test_psi_of_tied_scores_has_no_empty_bin() -> None:
    scores = np.sort(np.repeat([1.0, 2.0, 3.0], [700, 200, 100]))
    edges = bin_edges(scores)
    assert edges.tolist() == [2.0, 3.0]
    assert bin_counts(scores, edges).tolist() == [700, 200, 100]
    assert len(bin_edges(np.ones(50))) == 0
    assert psi_threshold(1000, 50, 1, 0.001) == math.inf


@pytest.mark.parametrize("window", [200, 2000])
def test_psi_threshold_keeps_its_word(window: int) -> None:
    # 5 % instead of 0.1 %, so that 2,000 draws can tell
    rng = np.random.default_rng(window)
    shares = np.full(10, 0.1)
    calibration, counts = (rng.multinomial(n, shares, 2000) for n in (5000, window))
    values = [psi(a, e) for a, e in zip(counts, calibration, strict=True)]
    limit = chi_square_quantile(0.05, 9) * (1 / window + 1 / 5000)
    assert np.mean(np.array(values) > limit) == pytest.approx(0.05, abs=0.015)


def test_psi_threshold_has_a_floor_for_effects() -> None:
    assert psi_threshold(100, 5000, 10, 0.001) == pytest.approx(27.877 * (1 / 100 + 1 / 5000), 1e-3)
    assert psi_threshold(100_000, 100_000, 10, 0.001) == SMALLEST_PSI


@pytest.mark.parametrize("shift", [0.0, 0.1, 2.0])
def test_kolmogorov_smirnov(shift: float) -> None:
    first, second = sample(1, 400, shift), sample(2, 3000)
    expected = stats.ks_2samp(first, second, method="exact")
    statistic = ks_statistic(first, second)
    assert statistic == pytest.approx(expected.statistic)
    # the asymptotic law with Stephens' correction against the exact one
    assert ks_p_value(statistic, 400, 3000) == pytest.approx(expected.pvalue, rel=0.1, abs=0.01)


def test_kolmogorov_smirnov_with_ties() -> None:
    first, second = np.sort(np.array([1.0, 1, 2, 3])), np.array([1.0, 2, 2, 2, 4])
    assert ks_statistic(first, second) == stats.ks_2samp(first, second).statistic


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_wasserstein(shift: float) -> None:
    first, second = sample(3, 300, shift), sample(4, 1000)
    assert wasserstein(first, second) == pytest.approx(
        float(stats.wasserstein_distance(first, second))
    )


def test_bridge_integrals_of_uniform_scores() -> None:
    """Mean sqrt(2/pi) pi/8 and second moment 7/60: Shepp 1982, On the integral of the absolute
    value of the pinned Wiener process."""
    draws = bridge_integrals((np.arange(20_000) + 0.5) / 20_000)
    assert draws.mean() == pytest.approx(math.sqrt(2 / math.pi) * math.pi / 8, rel=0.02)
    assert (draws**2).mean() == pytest.approx(7 / 60, rel=0.04)


def test_wasserstein_threshold_keeps_its_word() -> None:
    rng = np.random.default_rng(5)
    beyond = []
    for _ in range(200):
        calibration, window = (np.sort(rng.gamma(2.0, 1.5, n)) for n in (1000, 300))
        deviation = float(calibration.std())
        quantile = float(np.quantile(bridge_integrals(calibration), 0.95))
        limit = wasserstein_threshold(quantile, deviation, 300, 1000)
        assert limit > 0.05  # the floor plays no part
        beyond.append(wasserstein(window, calibration) / deviation > limit)
    # three standard errors of 200 draws
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.046)


def test_randomised_p_values_are_uniform_despite_ties() -> None:
    rng = np.random.default_rng(6)
    p_values = np.concatenate(
        [
            randomised_p_values(
                np.sort(rng.integers(0, 5, 40)).astype(float),
                rng.integers(0, 5, 1).astype(float),
                rng,
            )
            for _ in range(4000)
        ]
    )
    assert p_values.min() > 0
    assert p_values.max() <= 1
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_p_value_histogram() -> None:
    assert p_value_counts(np.array([1e-9, 0.05, 0.0501, 1.0])).tolist() == [2, 1, *[0] * 17, 1]
    counts = np.random.default_rng(7).multinomial(2000, np.full(20, 0.05))
    expected = stats.chisquare(counts)
    # an endless calibration adds no uncertainty of its own
    assert uniformity_p_value(counts, 10**12) == pytest.approx(float(expected.pvalue), rel=1e-6)


def test_uniformity_allows_for_the_calibration() -> None:
    rng = np.random.default_rng(8)
    p_values = []
    for _ in range(800):
        calibration = np.sort(rng.random(500))
        window = randomised_p_values(calibration, rng.random(1000), rng)
        p_values.append(uniformity_p_value(p_value_counts(window), 500))
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.025)


@pytest.mark.parametrize(("found", "size"), [(0, 10), (3, 10), (50, 1000), (10, 10)])
def test_wilson_interval(found: int, size: int) -> None:
    expected = stats.binomtest(found, size).proportion_ci(0.95, "wilson")
    assert wilson_interval(found, size) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_homogeneity() -> None:
    window, calibration = np.array([30, 50, 20, 0]), np.array([900, 1000, 1100, 0])
    expected = stats.chi2_contingency(np.stack([window, calibration])[:, :3], correction=False)
    statistic, p_value = homogeneity(window, calibration)
    assert statistic == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert homogeneity(np.array([5, 0]), np.array([9, 0])) == (0.0, 1.0)


def test_jensen_shannon() -> None:
    window, calibration = np.array([30, 50, 20, 0]), np.array([900, 1000, 1100, 10])
    expected = spatial.distance.jensenshannon(window, calibration, base=2) ** 2
    assert jensen_shannon(window, calibration) == pytest.approx(expected)
    assert jensen_shannon(np.array([3, 0]), np.array([0, 9])) == pytest.approx(1.0)


def test_jensen_shannon_threshold_keeps_its_word() -> None:
    rng = np.random.default_rng(9)
    shares = np.array([0.4, 0.3, 0.2, 0.05, 0.05])
    windows, calibrations = (rng.multinomial(n, shares, 2000) for n in (500, 3000))
    values = [jensen_shannon(a, e) for a, e in zip(windows, calibrations, strict=True)]
    limit = jensen_shannon_threshold(500, 3000, 5, 0.05)
    assert np.mean(np.array(values) > limit) == pytest.approx(0.05, abs=0.015)


def test_residuals_are_standard_errors() -> None:
    window, calibration = np.array([60, 40, 0]), np.array([300, 700, 0])
    pooled = 360 / 1100
    by_hand = (0.6 - 0.3) / math.sqrt(pooled * (1 - pooled) * (1 / 100 + 1 / 1000))
    assert residuals(window, calibration) == pytest.approx([by_hand, -by_hand, 0.0])
