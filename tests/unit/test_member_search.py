"""The search that chooses `combined`: areas, one kind left out, no peeking, simpler on ties."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import member_search
from benchmarks.combined_study import strategies
from benchmarks.member_search import (
    Judge,
    Outcome,
    SeedScores,
    Strategy,
    choose,
    evaluate,
    search,
    sorted_auroc,
)

KINDS = ("x1", "x2", "y1", "y2")
PAIR = Strategy("pair", "max")


def scores(seed: int) -> SeedScores:
    """`a` sees the kinds x, `b` the kinds y, `c` nothing; `layers` is made of them."""
    rng = np.random.default_rng(seed)

    def part(size: int, **shifts: float) -> dict[str, np.ndarray]:
        return {
            name: (rng.normal(0, 1, size) + shifts.get(name, 0)).astype(np.float32)
            for name in ("a", "b", "c", "layers")
        }

    proxies = {kind: part(200, **{"a" if kind[0] == "x" else "b": 4.0}) for kind in KINDS}
    return SeedScores(part(300), part(500), proxies)


def judge() -> Judge:
    return Judge([scores(0), scores(1)], {"layers": ("a", "b")})


def test_area_counts_ties_half() -> None:
    rng = np.random.default_rng(0)
    id_scores = rng.integers(0, 20, 300).astype(np.float32)
    ood_scores = rng.integers(5, 25, 100).astype(np.float32)
    expected = roc_auc_score(np.repeat([0, 1], [300, 100]), np.concatenate([id_scores, ood_scores]))
    assert sorted_auroc(np.sort(id_scores), ood_scores) == pytest.approx(expected)


def test_areas_are_those_of_the_exported_ensemble() -> None:
    one = scores(0)
    ensemble = member_search.Ensemble("e", ("a", "b"), "fisher").fit(one.dev_id)
    scored = one.scored_by(ensemble)
    areas = Judge([one], {}).areas(Strategy("pair", "fisher"), ("a", "b"), None)
    for kind in KINDS:
        truth = np.repeat([0, 1], [500, 200])
        both = np.concatenate([scored.cal_id["e"], scored.proxies[kind]["e"]])
        assert areas[kind] == pytest.approx(roc_auc_score(truth, both), abs=1e-6)


def test_each_search_finds_the_complementary_members() -> None:
    found = judge()
    assert set(search(found, PAIR, None)) == {"a", "b"}
    assert set(search(found, replace(PAIR, search="greedy"), None)) == {"a", "b"}
    assert search(found, replace(PAIR, search="all"), None) == ("a", "b", "c", "layers")
    assert len(search(found, Strategy("single"), None)) == 1
    assert search(found, Strategy("fixed", fixed=("c", "a")), None) == ("c", "a")


def test_what_is_left_out_is_not_looked_at() -> None:
    """`c` is perfect on y1 and blind elsewhere, `a` is a little better than chance on both x."""
    seeds = [scores(0), scores(1)]
    for seed in seeds:
        for kind in ("x1", "x2"):
            seed.proxies[kind]["a"][:] -= 3.5
        for kind in ("y1", "y2"):
            seed.proxies[kind]["b"][:] -= 4
        seed.proxies["y1"]["c"][:] += 50
    outcome = evaluate(Judge(seeds, {}), Strategy("single"))
    assert outcome.members == ("c",)
    assert outcome.seen["y1"] == 1
    assert outcome.chosen == {"x1": ("c",), "x2": ("c",), "y1": ("a",), "y2": ("c",)}
    assert outcome.left_out["y1"] < 0.6
    assert outcome.worst == min(outcome.left_out.values())


def test_learnt_layers_never_see_the_kind_they_are_judged_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[frozenset[str]] = []

    def note(ensemble: object, id_scores: object, outliers: dict[str, object]) -> None:
        seen.append(frozenset(outliers))

    monkeypatch.setattr(member_search, "learn_weights", note)
    found = judge()
    learnt = Strategy("pair", layer_weights="learnt")
    assert found.pool("learnt") == ("a", "b", "c", "layers_learnt")
    found.areas(learnt, ("a", "layers_learnt"), "x1")
    every = frozenset(KINDS)
    wanted = {every - {"x1", kind} for kind in KINDS}
    assert set(seen) == wanted
    assert len(seen) == 2 * len(wanted)  # two networks, each fit made once
    found.areas(learnt, ("a", "c"), "x1")
    assert len(seen) == 2 * len(wanted)


def outcome(strategy: Strategy, area: float) -> Outcome:
    return Outcome(strategy, {"x": area, "y": area}, {}, ("a", "b"), {})


def test_ties_go_to_the_simpler_and_singles_do_not_compete() -> None:
    greedy, pair, fisher = Strategy("greedy"), Strategy("pair"), Strategy("pair", "fisher")
    single = outcome(Strategy("single"), 0.99)
    outcomes = [single, outcome(greedy, 0.9508), outcome(fisher, 0.9505), outcome(pair, 0.9502)]
    assert choose(outcomes).strategy == pair
    outcomes[-1] = outcome(pair, 0.9490)
    assert choose(outcomes).strategy == fisher
    learnt = outcome(replace(pair, layer_weights="learnt"), 0.9508)
    assert choose([*outcomes, learnt]).strategy == fisher


def test_every_strategy_of_the_study_has_a_name_of_its_own() -> None:
    labels = [strategy.label for strategy in strategies()]
    assert len(set(labels)) == len(labels)
    assert {strategy.rule for strategy in strategies()} == set(member_search.RULES)
