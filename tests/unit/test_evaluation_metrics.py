"""Metrics against scikit-learn and against cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from service.bundle import threshold_at
from training.evaluation.metrics import (
    aupr_in,
    aupr_out,
    auroc,
    detection_error,
    evaluate_scores,
    fpr_at_id_acceptance,
    fpr_at_ood_detection,
    realised_rates,
    tnr_at_tpr,
)

MAGNITUDES = [1e-6, 1e-3, 1.0, 1e3, 1e6]


@st.composite
def score_sets(draw):
    """Few distinct values (heavy ties) or many, at any magnitude."""
    distinct = draw(st.sampled_from([1, 2, 5, 1000]))
    magnitude = draw(st.sampled_from(MAGNITUDES))
    whole = st.lists(st.integers(-distinct, distinct), min_size=1, max_size=60)
    id_scores, ood_scores = draw(whole), draw(whole)
    return np.array(id_scores) * magnitude, np.array(ood_scores) * magnitude


def labelled(id_scores, ood_scores):
    labels = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]
    return labels, np.r_[id_scores, ood_scores]


@given(score_sets())
def test_areas_equal_scikit_learn(sets):
    id_scores, ood_scores = sets
    labels, scores = labelled(id_scores, ood_scores)
    assert auroc(id_scores, ood_scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    for ours, positive, ranking in [(aupr_out, labels, scores), (aupr_in, 1 - labels, -scores)]:
        step = average_precision_score(positive, ranking)
        assert ours(id_scores, ood_scores) == pytest.approx(step, abs=1e-12)
        precision, recall, _ = precision_recall_curve(positive, ranking)
        area = auc(recall, precision)
        assert ours(id_scores, ood_scores, trapezoid=True) == pytest.approx(area, abs=1e-12)


@given(score_sets(), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_fpr_equals_the_roc_curve(sets, share):
    id_scores, ood_scores = sets
    labels, scores = labelled(id_scores, ood_scores)

    def from_curve(positive, ranking):
        fpr, tpr, _ = roc_curve(positive, ranking, drop_intermediate=False)
        return fpr[tpr >= share - 1e-12].min()

    id_side = fpr_at_id_acceptance(id_scores, ood_scores, share)
    ood_side = fpr_at_ood_detection(id_scores, ood_scores, share)
    assert id_side == pytest.approx(from_curve(1 - labels, -scores), abs=1e-12)
    assert ood_side == pytest.approx(from_curve(labels, scores), abs=1e-12)
    assert tnr_at_tpr(id_scores, ood_scores, share) == pytest.approx(1 - id_side)


@given(score_sets())
def test_detection_error_equals_a_search_over_every_threshold(sets):
    id_scores, ood_scores = sets
    thresholds = np.r_[-np.inf, np.unique(np.r_[id_scores, ood_scores])]
    errors = [
        0.5 * np.mean(id_scores > threshold) + 0.5 * np.mean(ood_scores <= threshold)
        for threshold in thresholds
    ]
    assert detection_error(id_scores, ood_scores) == pytest.approx(min(errors), abs=1e-12)


@given(score_sets())
def test_exchanging_id_and_ood_mirrors_the_area(sets):
    id_scores, ood_scores = sets
    assert auroc(id_scores, ood_scores) + auroc(ood_scores, id_scores) == pytest.approx(1.0)
    assert auroc(-id_scores, -ood_scores) == pytest.approx(auroc(ood_scores, id_scores))


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_magnitude_changes_nothing(magnitude, dtype):
    rng = np.random.default_rng(3)
    id_scores = rng.integers(0, 500, 400).astype(dtype)
    ood_scores = rng.integers(100, 600, 300).astype(dtype)
    scaled = evaluate_scores(id_scores * dtype(magnitude), ood_scores * dtype(magnitude), 0.0)
    plain = evaluate_scores(id_scores, ood_scores, 0.0)
    assert scaled.auroc == plain.auroc
    assert scaled.aupr_out == plain.aupr_out
    assert scaled.fpr95_id_side == plain.fpr95_id_side
    assert scaled.fpr95_ood_side == plain.fpr95_ood_side


def test_higher_means_more_ood():
    id_scores, ood_scores = np.arange(10.0), np.arange(10.0) + 100
    good, bad = (
        evaluate_scores(id_scores, ood_scores, 50),
        evaluate_scores(ood_scores, id_scores, 50),
    )
    # sums of parts of 1
    assert (good.auroc, good.aupr_out, good.aupr_in) == pytest.approx((1.0, 1.0, 1.0), abs=1e-12)
    assert (good.fpr95_id_side, good.fpr95_ood_side, good.detection_error) == (0.0, 0.0, 0.0)
    assert (good.id_acceptance, good.ood_rejection, good.tnr_at_tpr95) == (1.0, 1.0, 1.0)
    assert (bad.auroc, bad.fpr95_id_side, bad.fpr95_ood_side) == (0.0, 1.0, 1.0)
    assert (bad.id_acceptance, bad.ood_rejection, bad.detection_error) == (0.0, 0.0, 0.5)


def test_the_two_sides_of_fpr_by_hand():
    id_scores = np.arange(1.0, 21.0)  # 1..20: accepting 95 % means 19 of them, up to 19
    ood_scores = np.array([0.5, 5.5, 18.5, 19.5, 20.5, 21, 22, 23, 24, 25])
    # accepted OOD: 0.5, 5.5, 18.5
    assert fpr_at_id_acceptance(id_scores, ood_scores, 0.95) == 0.3
    # 80 % of ID is 16, up to 16: 0.5 and 5.5 pass
    assert fpr_at_id_acceptance(id_scores, ood_scores, 0.80) == 0.2
    # 95 % of ten OOD is all ten, from 0.5 on: every ID is rejected
    assert fpr_at_ood_detection(id_scores, ood_scores, 0.95) == 1.0
    # nine of ten OOD, from 5.5 on: ID 6..20 rejected
    assert fpr_at_ood_detection(id_scores, ood_scores, 0.90) == 0.75
    assert tnr_at_tpr(id_scores, ood_scores, 0.95) == pytest.approx(0.7)


def test_ties_at_the_threshold_pass_together():
    id_scores, ood_scores = np.zeros(100), np.r_[np.zeros(30), np.ones(70)]
    assert fpr_at_id_acceptance(id_scores, ood_scores) == 0.3
    assert fpr_at_ood_detection(id_scores, ood_scores) == 1.0
    assert auroc(id_scores, ood_scores) == 0.85


def test_a_rounding_error_does_not_ask_for_one_more():
    # 0.95 * 100 and 0.07 * 100 are not whole numbers in binary
    id_scores = np.arange(100.0)
    assert fpr_at_id_acceptance(id_scores, np.array([94.5]), 0.95) == 0.0
    assert fpr_at_id_acceptance(id_scores, np.array([6.5]), 0.07) == 0.0


def test_realised_rates_use_the_service_rule():
    # OOD is score > threshold: a score on the threshold is ID
    assert realised_rates([1.0, 2.0, 3.0, 4.0], [2.0, 3.0], 2.0) == (0.5, 0.5)


def test_evaluate_scores_agrees_with_the_single_functions():
    rng = np.random.default_rng(0)
    id_scores, ood_scores = rng.normal(size=700), rng.normal(1.0, 2.0, size=500)
    threshold = threshold_at(np.sort(rng.normal(size=999)), 0.95)
    result = evaluate_scores(id_scores, ood_scores, threshold)
    assert (result.id_count, result.ood_count, result.threshold) == (700, 500, threshold)
    assert result.auroc == auroc(id_scores, ood_scores)
    assert result.aupr_in_trapezoid == aupr_in(id_scores, ood_scores, trapezoid=True)
    assert result.aupr_out_trapezoid == aupr_out(id_scores, ood_scores, trapezoid=True)
    assert result.fpr80_id_side == fpr_at_id_acceptance(id_scores, ood_scores, 0.8)
    assert result.tnr_at_tpr95 == tnr_at_tpr(id_scores, ood_scores)
    assert (result.id_acceptance, result.ood_rejection) == realised_rates(
        id_scores, ood_scores, threshold
    )


def test_infinite_scores_have_a_rank():
    id_scores, ood_scores = [-math.inf, 0.0, 1.0], [0.5, math.inf, math.inf]
    assert auroc(id_scores, ood_scores) == pytest.approx(8 / 9)
    assert fpr_at_id_acceptance(id_scores, ood_scores, 1.0) == pytest.approx(1 / 3)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_area_by_counting_pairs(id_count, ood_count, seed):
    rng = np.random.default_rng(seed)
    id_scores, ood_scores = rng.integers(0, 8, id_count), rng.integers(0, 8, ood_count)
    above = (ood_scores[:, None] > id_scores).mean() + (ood_scores[:, None] == id_scores).mean() / 2
    assert auroc(id_scores, ood_scores) == pytest.approx(above, abs=1e-12)


@pytest.mark.parametrize(
    ("id_scores", "ood_scores", "message"),
    [
        ([], [1.0], "ID scores: no scores"),
        ([1.0], [], "OOD scores: no scores"),
        ([1.0, math.nan], [1.0], "ID scores: 1 of 2 are NaN"),
        ([1.0], [[1.0], [2.0]], r"OOD scores: shape \(2, 1\)"),
    ],
)
@pytest.mark.parametrize("metric", [auroc, aupr_in, fpr_at_ood_detection, detection_error])
def test_impossible_input_is_refused(metric, id_scores, ood_scores, message):
    with pytest.raises(ValueError, match=message):
        metric(id_scores, ood_scores)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
def test_impossible_shares_are_refused(share):
    with pytest.raises(ValueError, match="share to reach"):
        fpr_at_id_acceptance([1.0], [2.0], share)


def test_a_nan_threshold_is_refused():
    with pytest.raises(ValueError, match="threshold is NaN"):
        evaluate_scores([1.0], [2.0], math.nan)
