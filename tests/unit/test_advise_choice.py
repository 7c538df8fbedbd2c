"""Choosing among detectors: shares, paired differences, redundancy, verdicts."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from service.bundle import DetectorSpec
from training.advise.choice import (
    alike_pairs,
    as_good_as_the_best,
    decider,
    difference,
    flags,
    half,
    mean_share,
    members_of,
    rank_agreement,
)
from training.advise.records import Cost, Opinion, Share
from training.advise.study import judge
from training.evaluation.intervals import wilson_interval

RNG = np.random.default_rng


def spec(name: str, cost: str = "logits", **hyperparameters: float) -> DetectorSpec:
    return DetectorSpec.model_validate_json(
        json.dumps(
            {
                "name": name,
                "output": f"score/{name}",
                "graph": "forward.onnx" if cost not in ("gradient", "multi_pass") else "g.onnx",
                "cost": cost,
                "hyperparameters": hyperparameters,
                "threshold": 0.0,
                "id_acceptance": 0.95,
                "calibration_size": 100,
                "acceptance_interval": [0.9, 1.0],
                "reference": "none",
            }
        )
    )


def test_halves_share_no_input_and_prefixes_stay_aligned() -> None:
    scores = {"msp": np.arange(7.0), "odin": np.arange(4.0)}
    assert half(scores, 0)["msp"].tolist() == [0, 2, 4, 6]
    assert half(scores, 1)["msp"].tolist() == [1, 3, 5]
    assert half(scores, 0)["odin"].tolist() == [0, 2]


def test_flags_are_means_over_the_kinds() -> None:
    sets = [{"msp": np.array([0.0, 1.0, 2.0])}, {"msp": np.array([0.0, 0.0, 3.0])}]
    assert flags(sets, "msp", 0.5).tolist() == [0.0, 0.5, 1.0]


def test_a_share_of_yes_and_no_has_wilsons_interval() -> None:
    share = mean_share(np.array([1.0, 0.0, 1.0, 1.0]))
    assert (share.value, share.count, share.total) == (0.75, 3, 4)
    # Wilson 1927 by hand: centre (p + z^2/2n) / (1 + z^2/n)
    z, p, n = 1.959963984540054, 0.75, 4
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (share.low, share.high) == pytest.approx((centre - reach, centre + reach))
    with pytest.raises(ValueError, match="5 of 4"):
        wilson_interval(5, 4)


def test_means_over_kinds_have_students_interval() -> None:
    values = RNG(0).choice([0.0, 1 / 3, 2 / 3, 1.0], 50)
    share = mean_share(values)
    expected = stats.t.interval(0.95, 49, values.mean(), stats.sem(values))
    assert (share.low, share.high) == pytest.approx(expected)


def test_a_difference_is_the_paired_one() -> None:
    rng = RNG(1)
    hard = rng.random(300)  # both catch the easy ones
    first, second = (hard < 0.7).astype(float), (hard < 0.65).astype(float)
    mean, (low, high) = difference(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert low > 0  # paired: sure; two separate intervals would overlap
    one, other = mean_share(first), mean_share(second)
    assert other.high > one.low
    assert mean == pytest.approx(one.value - other.value)
    assert difference(first, first) == (0.0, (0.0, 0.0))


def test_the_bundles_own_choice_stays_unless_another_is_better_for_sure() -> None:
    rng = RNG(2)
    good = (rng.random(400) < 0.8).astype(float)
    nearly = good.copy()
    nearly[:2] = 1 - nearly[:2]
    poor = (rng.random(400) < 0.3).astype(float)
    specs = [spec("knn", "bank"), spec("energy"), spec("combined", "layers")]
    caught = {"knn": good, "energy": nearly, "combined": nearly}
    assert set(as_good_as_the_best(caught)) == set(caught)
    assert decider(caught, "combined", specs) == "combined"
    worse = {"knn": good, "energy": nearly, "combined": poor}
    assert decider(worse, "combined", specs) == "energy"  # the cheapest of the good ones
    assert decider({"knn": good, "energy": poor}, "combined", specs) == "knn"


def test_members_are_found_through_scores_of_scores() -> None:
    specs = [
        spec("energy"),
        spec("mahalanobis", "layers"),
        spec("mahalanobis_ensemble", "layers", weight_mahalanobis=1.0, weight_gone=0.0),
        spec("combined", "layers", weight_mahalanobis_ensemble=0.5, weight_energy=0.5),
        spec("msp"),
    ]
    assert members_of("combined", specs) == {"energy", "mahalanobis", "mahalanobis_ensemble"}
    assert members_of("msp", specs) == set()


def test_agreement_is_spearmans_over_what_both_have_scored() -> None:
    rng = RNG(3)
    base = rng.normal(size=200)
    scores = {
        "msp": base + 0.3 * rng.normal(size=200),
        "energy": np.round(base, 1),  # ties
        "odin": (base + rng.normal(size=200))[:50],
        "constant": np.ones(200),
    }
    found = rank_agreement(scores, list(scores))
    assert found[0, 1] == pytest.approx(stats.spearmanr(scores["msp"], scores["energy"]).statistic)
    expected = stats.spearmanr(scores["energy"][:50], scores["odin"]).statistic
    assert found[1, 2] == found[2, 1] == pytest.approx(expected)
    assert found[3].tolist() == [0, 0, 0, 1]


def test_alike_means_alike_on_every_set_and_names_a_cheaper_one() -> None:
    rng = RNG(4)
    base, other = rng.normal(size=300), rng.normal(size=300)
    specs = [spec("knn", "bank"), spec("energy"), spec("max_logit")]
    first = {"energy": base, "max_logit": np.exp(base), "knn": base}
    second = {"energy": other, "max_logit": other**3, "knn": rng.normal(size=300)}
    found = alike_pairs([first, second], specs)
    assert set(found) == {"max_logit"}
    assert found["max_logit"] == ("energy", pytest.approx(1.0))


def opinion(missing: tuple[float, float], cost: float = 1.0, **changes: object) -> Opinion:
    low, high = missing
    share = Share(0.1, 100, 0.05, 0.15)
    found = Opinion(
        name="x",
        verdict="worse",
        on_demand=False,
        cost=Cost(cost, cost - 0.01, cost + 0.01, 10.0),
        threshold=0.0,
        missing=(low + high) / 2,
        missing_interval=missing,
        detection=share,
        only_here=share,
        only_id=share,
        caught=(),
    )
    return replace(found, **changes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("one", "member", "verdict"),
    [
        (opinion((-0.2, -0.1), 3.0), False, "better"),
        (opinion((-0.1, 0.1)), False, "cheaper"),
        (opinion((-0.1, 0.1)), True, "cheaper"),
        (opinion((-0.1, 0.1), 2.0), False, "equal"),
        (opinion((-0.1, 0.1), alike="energy"), False, "alike"),
        (opinion((0.1, 0.2)), True, "member"),
        (opinion((0.1, 0.2), alike="energy"), False, "alike"),
        (opinion((0.1, 0.2)), False, "worse"),
        (opinion((0.1, 0.2), only_here=Share(0.3, 100, 0.2, 0.4)), False, "complements"),
    ],
)
def test_verdicts(one: Opinion, member: bool, verdict: str) -> None:
    """Beside a detector that costs 1.5 times the classifier."""
    assert judge(one, Cost(1.5, 1.45, 1.55, 100.0), member=member) == verdict
