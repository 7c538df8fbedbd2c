"""Choosing what to label: the scores, the batches, and a study whose oracle alone knows OOD."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from toy import SPEC, digits, toy_classifier, write_digits

from training.active import study as studies
from training.active.acquisition import drawn_by_power, largest, ranks, spread_out
from training.active.labelled import Features, IdOdds, Knowledge, ParzenOdds
from training.active.network import Network, Recipe
from training.active.study import (
    Arm,
    Study,
    World,
    load_active_study,
    measure_active_study,
    run_arm,
)
from training.data import ImageSet
from training.data.derived import mixup
from training.evaluation.metrics import auroc
from training.objectives.parzen_repulsion import ParzenRepulsion

RECIPE: dict[str, Any] = {
    "backbone": "lenet",
    "backbone_options": {"width": 2, "pool": 8},
    "lr": 0.01,
    "batch_size": 16,
    "outliers_beside": 8,
    "steps": 6,
    "passes": 4,
}


def study(folder: Path) -> Study:
    write_digits(folder)
    return Study.model_validate(
        {
            "title": "digits",
            "initial": 20,
            "batch": 8,
            "queries": 20,
            "pool_id": 60,
            "pool_ood": 60,
            "test_count": 100,
            "input": SPEC.model_dump(),
            "recipe": RECIPE,
            "train": [{"source": "npz", "path": str(folder / "train.npz")}],
            "test": [{"source": "npz", "path": str(folder / "test.npz")}],
            "contaminant": [{"source": "noise", "kind": "uniform", "count": 80}],
            "arms": [
                {"name": "random", "what": "at random", "score": "random"},
                {
                    "name": "ours",
                    "what": "density",
                    "score": "density",
                    "id_probability": True,
                    "exposure": "binary_head",
                },
            ],
        }
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def world(small: Study) -> World:
    return studies.worlds(small)(0)


def test_ranks_are_scipys() -> None:
    scores = np.random.default_rng(0).integers(0, 20, 200).astype(np.float64)
    np.testing.assert_allclose(ranks(scores), (rankdata(scores) - 0.5) / 200)


def test_a_batch_is_drawn_in_proportion_to_its_scores() -> None:
    scores = np.array([0.0, 1.0, 2.0, 5.0])
    rng = np.random.default_rng(0)
    first = [int(drawn_by_power(scores, 1, rng)[0]) for _ in range(4000)]
    shares = np.bincount(first, minlength=4) / 4000
    np.testing.assert_allclose(shares, scores / scores.sum(), atol=0.03)
    assert sorted(drawn_by_power(scores, 4, rng).tolist()) == [0, 1, 2, 3]
    assert drawn_by_power(scores, 4, rng)[-1] == 0
    steep = [int(drawn_by_power(scores, 1, rng, power=8.0)[0]) for _ in range(300)]
    assert np.mean(np.array(steep) == 3) > 0.98
    with pytest.raises(ValueError, match="negative"):
        drawn_by_power(np.array([-1.0, 1.0]), 1, rng)


def test_what_is_chosen_counts_as_seen_so_a_batch_spreads_out() -> None:
    """Two clusters of near copies, the first a little stranger: one of each is asked about."""
    rng = np.random.default_rng(0)
    points = np.concatenate([np.full((10, 3), 40.0), np.full((10, 3), -40.0), np.zeros((30, 3))])
    points = (points + rng.normal(0, 0.05, points.shape)).astype(np.float32)
    epistemic = np.concatenate([np.full(10, 9.0), np.full(10, 8.0), np.full(30, 0.1)])
    epistemic += rng.uniform(0, 0.01, 50)
    everything = np.ones(50)
    chosen = spread_out(epistemic, everything, points, 2)
    assert {int(c) // 10 for c in chosen} == {0, 1}
    assert {int(c) // 10 for c in largest(epistemic, 2)} == {0}
    # and what is surely OOD is not worth a label, however strange
    worth = np.where(np.arange(50) < 10, 1e-3, 1.0)
    assert int(spread_out(epistemic, worth, points, 1)[0]) // 10 == 1
    assert len(set(spread_out(epistemic, everything, points, 60).tolist())) == 50


def test_the_line_between_id_and_rejected_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    of_id, rejected = rng.normal(0, 1, (200, 5)), rng.normal(0.8, 2, (15, 5))
    found = IdOdds.fit(torch.from_numpy(of_id), torch.from_numpy(rejected))
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    model.fit(np.concatenate([of_id, rejected]), np.repeat([1, 0], [200, 15]))
    asked = rng.normal(0.4, 1.5, (50, 5))
    np.testing.assert_allclose(
        expit(found.logits(torch.from_numpy(asked))), model.predict_proba(asked)[:, 1], atol=1e-3
    )


def clouds(*centers: Sequence[float], count: int = 60) -> Features:
    """Directions in five dimensions, `count` about each center."""
    rng = np.random.default_rng(len(centers))
    parts = [np.asarray(center) + rng.normal(0, 0.15, (count, 5)) for center in centers]
    values = torch.from_numpy(np.concatenate(parts)).float()
    return Features(values, torch.zeros(len(values), 4))


def test_rejected_inputs_become_known_and_stay_ood() -> None:
    """An OOD family that was rejected: OOD, but nothing new.  One nobody met: both."""
    id_centers = ((3, 0, 0, 0, 0), (0, 3, 0, 0, 0))
    of_id = clouds(*id_centers)
    labels = torch.repeat_interleave(torch.arange(2), 60)
    family, unseen = clouds((0, 0, 3, 0, 0)), clouds((0, 0, 0, 3, 0))
    knowledge = Knowledge.of(toy_classifier(), of_id, labels, clouds((0, 0, 3, 0, 0), count=30))
    before = Knowledge.of(toy_classifier(), of_id, labels, None)
    more_id = clouds(*id_centers, count=20)

    ood = {n: knowledge.ood_score(f) for n, f in (("id", more_id), ("f", family), ("u", unseen))}
    assert ood["f"].min() > ood["id"].max()
    assert ood["u"].min() > ood["id"].max()
    new = {
        n: knowledge.epistemic_score(f) for n, f in (("id", more_id), ("f", family), ("u", unseen))
    }
    assert new["u"].min() > max(new["f"].max(), new["id"].max())
    assert np.median(new["f"]) < np.quantile(new["id"], 0.99) + 2
    assert before.epistemic_score(family).min() > before.epistemic_score(more_id).max()
    assert knowledge.id_probability(more_id).min() > 0.8
    assert knowledge.id_probability(family).max() < 0.2
    assert (before.id_probability(family) == 1).all()


def test_the_density_in_units_of_a_kernel_is_the_sum_of_kernels() -> None:
    of_id = clouds((3, 0, 0, 0, 0), (0, 3, 0, 0, 0))
    labels = torch.repeat_interleave(torch.arange(2), 60)
    knowledge = Knowledge.of(toy_classifier(), of_id, labels, clouds((0, 0, 3, 0, 0), count=30))
    asked = clouds((1, 1, 1, 0, 0), count=7)
    bank = np.concatenate(
        [knowledge.points(of_id), knowledge.points(clouds((0, 0, 3, 0, 0), count=30))]
    )
    points = knowledge.points(asked)
    squares = np.square(points[:, None].astype(np.float64) - bank[None]).sum(2)
    wanted = -np.log(np.exp(-squares / 2).sum(1))
    np.testing.assert_allclose(knowledge.unnormalised(asked), wanted, rtol=1e-3, atol=1e-3)


def test_a_world_is_balanced_seeded_and_half_of_it_is_foreign(small: Study, world: World) -> None:
    assert np.bincount(world.initial.labels).tolist() == [2] * 10
    assert len(world.pool) == 120
    assert (world.pool.labels < 0).sum() == 60
    again, other = studies.worlds(small)(0), studies.worlds(small)(1)
    assert (again.pool.inputs == world.pool.inputs).all()
    assert (other.pool.labels != world.pool.labels).any()
    pool = {given.tobytes() for given in world.pool.inputs}
    pixels, labels = digits()
    assert not pool & {given.tobytes() for given in world.initial.inputs}
    seen = {given.tobytes(): label for given, label in zip(pixels, labels, strict=True)}
    wanted = [seen.get(given.tobytes(), -1) for given in world.pool.inputs]
    assert world.pool.labels.tolist() == wanted


@pytest.mark.parametrize("exposure", [None, "outlier_exposure", "binary_head", "parzen_repulsion"])
@pytest.mark.parametrize("score", ["random", "entropy", "mutual_information", "density"])
def test_every_query_is_counted_once(small: Study, world: World, score: Any, exposure: Any) -> None:
    if score == "random" and exposure is not None:
        pytest.skip("one arm at random is enough")
    arm = Arm(name="a", what="", score=score, id_probability=True, exposure=exposure)
    rounds = run_arm(small, arm, world, 0)
    assert [r["queries"] for r in rounds] == [0, 8, 16, 20]
    for before, after in pairwise(rounds):
        assert after["rejected"] == before["rejected"] + before["contaminants"]
        assert after["labels"] + after["rejected"] == small.initial + after["queries"]
        by_density = {"id_density", "overall_density"}
        wanted = set() if score == "random" else by_density
        if score in ("entropy", "mutual_information"):
            wanted = by_density | {"entropy", "mutual_information"}
        assert set(before["auroc"]) - {"id_probability"} == wanted
    assert all(0 <= r["accuracy"] <= 1 for r in rounds)


def test_parzens_own_odds_are_those_of_its_loss(small: Study, world: World) -> None:
    """By hand: log of the mean kernel about labelled ID of unit length, plus the prior odds."""
    recipe = Recipe.model_validate(RECIPE)
    rejected = world.pool.take(np.flatnonzero(world.pool.labels < 0)[:20], "rejected")
    network = studies.trained_network(recipe, SPEC, world.initial, rejected, "parzen_repulsion", 0)
    objective = network.objective
    assert isinstance(objective, ParzenRepulsion)
    of_id, asked = network.features(world.initial), network.features(world.pool)
    found = ParzenOdds(objective, of_id.values).logits(asked.values)
    bank, points = (
        f.values.double().numpy() / np.linalg.norm(f.values.double().numpy(), axis=1, keepdims=True)
        for f in (of_id, asked)
    )
    squares = np.square(points[:, None] - bank[None]).sum(2)
    kernels = np.exp(-squares / (2 * float(objective.squared_bandwidth)))
    np.testing.assert_allclose(found, np.log(kernels.mean(1)) + 3, rtol=1e-3, atol=1e-3)


def test_an_arm_by_parzens_density_asks_by_it(
    small: Study, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm = Arm(
        name="a", what="", score="density", id_probability="parzen", exposure="parzen_repulsion"
    )
    used: list[object] = []
    batch = studies._batch

    def watched(arm: Arm, scored: Any, *rest: Any) -> Any:
        used.append(scored.knowledge.odds)
        return batch(arm, scored, *rest)

    monkeypatch.setattr(studies, "_batch", watched)
    rounds = run_arm(small, arm, world, 0)
    for record, odds in zip(rounds, used, strict=False):
        assert isinstance(odds, ParzenOdds) == bool(record["rejected"])
        assert ("id_probability" in record["auroc"]) == bool(record["rejected"])
    assert rounds[-2]["rejected"]
    with pytest.raises(ValueError, match=r'arm a: id_probability = "parzen".*exposure is binary_h'):
        Arm(name="a", what="", score="density", id_probability="parzen", exposure="binary_head")


@pytest.mark.parametrize("score", ["mutual_information", "density"])
def test_only_the_oracle_knows_what_is_ood(
    small: Study, world: World, monkeypatch: pytest.MonkeyPatch, score: Any
) -> None:
    """Whatever the inputs that were never asked about are, the same ones are asked about."""
    arm = Arm(name="a", what="", score=score, id_probability=True, exposure="binary_head")
    asked: list[bytes] = []
    take = ImageSet.take

    def remembered(self: ImageSet, indices: Any, name: str) -> ImageSet:
        found = take(self, indices, name)
        if name in ("answered", "rejected"):
            asked.extend(given.tobytes() for given in found.inputs)
        return found

    monkeypatch.setattr(ImageSet, "take", remembered)
    first = run_arm(small, arm, world, 0)
    known = set(asked)
    labels = world.pool.labels.copy()
    for position, given in enumerate(world.pool.inputs):
        if given.tobytes() not in known:
            labels[position] = -1 if labels[position] >= 0 else 3
    second = run_arm(small, arm, replace(world, pool=replace(world.pool, labels=labels)), 0)
    for one, other in zip(first, second, strict=True):
        same = ("queries", "labels", "rejected", "accuracy", "contaminants")
        assert [one.get(key) for key in same] == [other.get(key) for key in same]


def test_every_arm_and_seed_is_measured_once(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_active_study(small, (0,), tmp_path)
    assert set(found["arms"]) == {"random", "ours"}
    before = (tmp_path / "study.json").read_text()
    assert json.loads(before) == found

    def never(*_: object) -> None:
        raise AssertionError("measured already")

    monkeypatch.setattr(studies, "run_arm", never)
    measure_active_study(small, (0,), tmp_path)
    assert (tmp_path / "study.json").read_text() == before
    changed = small.model_copy(update={"batch": 5})
    with pytest.raises(AssertionError, match="measured already"):
        measure_active_study(changed, (0,), tmp_path)


def test_a_network_asks_all_inputs_under_the_same_masks(small: Study, world: World) -> None:
    recipe = Recipe.model_validate(RECIPE)
    network = studies.trained_network(recipe, SPEC, world.initial, None, None, 3)
    assert isinstance(network, Network)
    votes = network.votes(world.pool)
    alone = network.votes(world.pool.take(np.array([7]), "one"))
    assert votes.entropy[7] == pytest.approx(alone.entropy[0], abs=1e-5)
    assert votes.mutual_information[7] == pytest.approx(alone.mutual_information[0], abs=1e-5)
    assert (votes.mutual_information <= votes.entropy + 1e-6).all()


def test_the_shipped_study_is_whole() -> None:
    loaded = load_active_study()
    assert len({arm.name for arm in loaded.arms}) == len(loaded.arms)
    assert {arm.score for arm in loaded.arms} >= {"random", "entropy", "mutual_information"}


def stripes(count: int, seed: int) -> ImageSet:
    """No digits: diagonal stripes of some width and phase."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:28, :28]
    width, phase = rng.uniform(1.5, 2.5, (count, 1, 1)), rng.uniform(0, 6, (count, 1, 1))
    images = ((np.sin((rows + columns) / width + phase) > 0) * 255).astype(np.uint8)
    return unlabelled(images[..., None])


def unlabelled(images: Any) -> ImageSet:
    names = tuple(map(str, range(10)))
    return ImageSet("x", np.ascontiguousarray(images), np.full(len(images), -1), names, "made")


def test_known_ood_unknown_ood_and_ambiguous_id_are_three_things() -> None:
    """On a trained network: stripes were rejected, noise was never met, blends are between digits.

    Both kinds of OOD are told from ID; only the one that nobody met is new.  A blend is what the
    softmax is unsure of; that it is ID a density of features does not know.
    """
    pixels, labels = digits()
    rng = np.random.default_rng(0)
    known = replace(unlabelled(pixels[:1000]), labels=labels[:1000])
    recipe = Recipe.model_validate(
        RECIPE | {"backbone_options": {"width": 4, "pool": 4}, "lr": 0.003, "steps": 150}
    )
    network = studies.trained_network(recipe, SPEC, known, None, None, 0)
    knowledge = Knowledge.of(
        network.classifier,
        network.features(known),
        torch.from_numpy(known.labels),
        network.features(stripes(60, 1)),
    )
    more_id = network.features(unlabelled(pixels[1000:1400]))
    family = network.features(stripes(100, 2))
    noise = rng.integers(0, 256, (100, 28, 28, 1), dtype=np.uint8)
    unseen = network.features(unlabelled(noise))
    blends = network.features(unlabelled(mixup(pixels[1000:1200], labels[1000:1200], rng)))

    def area(score: Any, features: Features) -> float:
        return auroc(score(more_id), score(features))

    def entropy(features: Features) -> Any:
        logarithms = features.logits.double().log_softmax(1)
        return -(logarithms.exp() * logarithms).sum(1).numpy()

    assert area(knowledge.ood_score, family) > 0.95
    assert area(knowledge.ood_score, unseen) > 0.95
    assert area(knowledge.epistemic_score, family) < 0.35
    assert area(knowledge.epistemic_score, unseen) > area(knowledge.epistemic_score, family) + 0.3
    assert area(lambda f: -knowledge.id_probability(f), family) > 0.95
    assert area(entropy, blends) > 0.75
    assert area(lambda f: -knowledge.id_probability(f), blends) < 0.75
