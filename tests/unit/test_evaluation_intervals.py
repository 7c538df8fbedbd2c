"""Intervals of a metric: known truth, an independent formula, and each other."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from training.evaluation.delong import delong_interval
from training.evaluation.intervals import bootstrap_interval
from training.evaluation.metrics import auroc, fpr_at_id_acceptance


def normal_sets(seed, id_count=200, ood_count=150, shift=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=id_count), rng.normal(shift, 1.0, size=ood_count)


def test_delong_equals_the_pairwise_definition():
    id_scores, ood_scores = normal_sets(0, 40, 30)
    id_scores, ood_scores = np.round(id_scores, 1), np.round(ood_scores, 1)  # with ties
    wins = (ood_scores[:, None] > id_scores) + 0.5 * (ood_scores[:, None] == id_scores)
    area = wins.mean()
    variance = np.var(wins.mean(axis=1), ddof=1) / 30 + np.var(wins.mean(axis=0), ddof=1) / 40
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(variance) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    expected = [1 / (1 + math.exp(-(centre + sign * reach))) for sign in (-1, 1)]
    assert delong_interval(id_scores, ood_scores) == pytest.approx(expected, abs=1e-12)


def test_delong_covers_the_truth_as_often_as_it_says():
    truth = NormalDist().cdf(1 / math.sqrt(2))  # P(N(1,1) > N(0,1))
    covered = [
        low <= truth <= high
        for low, high in (delong_interval(*normal_sets(seed)) for seed in range(1000))
    ]
    # 1000 trials at 95 %: sd 0.7 points, four of them
    assert np.mean(covered) == pytest.approx(0.95, abs=0.028)


def test_bootstrap_covers_the_truth_too():
    truth = NormalDist().cdf(1 / math.sqrt(2))
    intervals = [
        bootstrap_interval(*normal_sets(seed, 100, 100), resamples=200, coverage=0.9)
        for seed in range(300)
    ]
    covered = [low <= truth <= high for low, high in intervals]
    # 300 trials at 90 %: sd 1.7 points; the percentile bootstrap runs a little narrow
    assert np.mean(covered) == pytest.approx(0.90, abs=0.07)


def test_bootstrap_agrees_with_delong_on_large_sets():
    id_scores, ood_scores = normal_sets(5, 5000, 4000)
    delong = delong_interval(id_scores, ood_scores)
    assert bootstrap_interval(id_scores, ood_scores) == pytest.approx(delong, abs=1.5e-3)


def test_the_fast_path_draws_the_same_resamples():
    id_scores, ood_scores = (np.round(scores, 1) for scores in normal_sets(2))
    fast = bootstrap_interval(id_scores, ood_scores, resamples=50, seed=7)
    slow = bootstrap_interval(id_scores, ood_scores, lambda i, o: auroc(i, o), resamples=50, seed=7)
    assert fast == slow


def test_a_seed_repeats_and_another_differs():
    sets = normal_sets(4)
    first = bootstrap_interval(*sets, fpr_at_id_acceptance, resamples=100, seed=1)
    assert first == bootstrap_interval(*sets, fpr_at_id_acceptance, resamples=100, seed=1)
    assert first != bootstrap_interval(*sets, fpr_at_id_acceptance, resamples=100, seed=2)
    low, high = first
    assert 0 <= low <= fpr_at_id_acceptance(*sets) <= high <= 1


@pytest.mark.parametrize("magnitude", [1e-6, 1e6])
def test_intervals_depend_on_ranks_only(magnitude):
    id_scores, ood_scores = normal_sets(9)
    plain = bootstrap_interval(id_scores, ood_scores, resamples=50)
    scaled = bootstrap_interval(id_scores * magnitude, ood_scores * magnitude, resamples=50)
    assert scaled == plain


def test_complete_separation_gives_a_point():
    assert bootstrap_interval(np.arange(50.0), np.arange(50.0) + 100) == (1.0, 1.0)


def test_impossible_settings_are_refused():
    sets = normal_sets(0)
    with pytest.raises(ValueError, match="coverage"):
        bootstrap_interval(*sets, coverage=0.0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval(*sets, resamples=0)
    with pytest.raises(ValueError, match="NaN"):
        bootstrap_interval([math.nan], [1.0])
