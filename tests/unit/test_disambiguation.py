"""OOD, new, ambiguous: what the study measures, on digits, stripes and noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm, spearmanr
from toy import SPEC, digits, write_digits

from training.active import disambiguation
from training.active.disambiguation import (
    AMBIGUOUS,
    EXPOSED,
    ID,
    Arm,
    Judge,
    Study,
    World,
    disambiguation_finished,
    load_disambiguation,
    measure_arm,
    measure_disambiguation,
    worlds,
)
from training.evaluation.metrics import auroc

RECIPE: dict[str, Any] = {
    "backbone": "lenet",
    "backbone_options": {"width": 2, "pool": 8, "latent_dim": 4},
    "lr": 0.01,
    "batch_size": 32,
    "outliers_beside": 16,
    "steps": 25,
}


def written_stripes(path: Path, count: int, seed: int) -> None:
    """No digits: diagonal stripes of some width and phase."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:28, :28]
    width, phase = rng.uniform(1.5, 2.5, (count, 1, 1)), rng.uniform(0, 6, (count, 1, 1))
    images = (np.sin((rows + columns) / width + phase) * 127 + 128).astype(np.uint8)
    np.savez(path, images=images, labels=np.zeros(count, np.int64))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("sets")
    write_digits(folder)
    written_stripes(folder / "stripes.npz", 60, 1)
    written_stripes(folder / "stripes-test.npz", 50, 2)
    sources = {
        "train": "train.npz",
        "test": "test.npz",
        "exposed": "stripes.npz",
        "exposed_test": "stripes-test.npz",
    }
    files = {
        name: [{"source": "npz", "path": str(folder / file)}] for name, file in sources.items()
    }
    noise = [{"source": "noise", "kind": "uniform", "count": 40}]
    arms = [
        {"name": "plain", "what": "p"},
        {"name": "head", "what": "h", "exposure": "binary_head"},
    ]
    return Study.model_validate(
        {
            "title": "digits",
            "members": 2,
            "train_count": 300,
            "exposed_count": 50,
            "test_count": 80,
            "input": SPEC.model_dump(),
            "recipe": RECIPE,
            "unseen": {"noise": noise},
            "arms": arms,
            **files,
        }
    )


@pytest.fixture(scope="module")
def world(small: Study) -> World:
    return worlds(small)(0)


@pytest.fixture(scope="module")
def judge(small: Study, world: World) -> Judge:
    networks = [
        disambiguation.trained_network(
            small.recipe, SPEC, world.known, world.outliers, None, member
        )
        for member in range(2)
    ]
    return Judge.of(networks, world.known, world.outliers)


def test_a_world_is_seeded_and_shows_nothing_that_is_judged(small: Study, world: World) -> None:
    assert set(world.judged) == {ID, AMBIGUOUS, EXPOSED, "noise"}
    assert (len(world.known), len(world.outliers)) == (300, 50)
    assert [len(data) for data in world.judged.values()] == [80, 80, 50, 40]
    again, other = worlds(small)(0), worlds(small)(1)
    assert (again.known.inputs == world.known.inputs).all()
    assert (again.judged[AMBIGUOUS].inputs == world.judged[AMBIGUOUS].inputs).all()
    assert (other.known.inputs != world.known.inputs).any()
    shown = {given.tobytes() for given in (*world.known.inputs, *world.outliers.inputs)}
    train = {given.tobytes() for given in digits()[0][:1300]}
    assert {given.tobytes() for given in world.known.inputs} <= train
    for name in (EXPOSED, "noise"):
        assert not shown & {given.tobytes() for given in world.judged[name].inputs}


def test_a_blend_is_the_mean_of_two_test_images_of_other_classes(world: World) -> None:
    test, blends = world.judged[ID], world.judged[AMBIGUOUS]
    means = (test.inputs.astype(int)[:, None] + test.inputs.astype(int)[None] + 1) // 2
    for index, blend in enumerate(blends.inputs):
        (partners,) = np.nonzero((means[index] == blend).all(axis=(1, 2, 3)))
        assert any(test.labels[partner] != test.labels[index] for partner in partners)


def test_the_scores_by_hand(world: World, judge: Judge) -> None:
    """Entropy, mutual information and the mixed density without the package's own formulas."""
    data = world.judged[ID]
    found = judge.scores(data)
    votes = [
        network.features(data).logits.double().softmax(1).numpy() for network in judge.networks
    ]

    def entropy(shares: Any) -> Any:
        return -(shares * np.log(shares)).sum(1)

    np.testing.assert_allclose(found["entropy"], entropy(votes[0]), rtol=1e-4, atol=1e-6)
    mean = (votes[0] + votes[1]) / 2
    np.testing.assert_allclose(found["ensemble_entropy"], entropy(mean), rtol=1e-4, atol=1e-6)
    between = entropy(mean) - (entropy(votes[0]) + entropy(votes[1])) / 2
    np.testing.assert_allclose(found["mutual_information"], between, rtol=1e-3, atol=1e-5)

    shown = judge.networks[0].features(world.outliers).values.double().numpy()
    asked = judge.networks[0].features(data).values.double().numpy()
    kernels = norm(scale=judge.outliers.bandwidth_).logpdf(asked[:, None] - shown[None]).sum(2)
    of_outliers = logsumexp(kernels, axis=1) - np.log(len(shown))
    mixed = -np.logaddexp(np.log(0.5) - found["id_gda"], np.log(0.5) + of_outliers)
    np.testing.assert_allclose(found["all_mixed"], mixed, rtol=1e-4, atol=1e-4)


def test_what_was_shown_is_known_to_the_density_of_everything_alone(
    world: World, judge: Judge
) -> None:
    of_id, shown = judge.scores(world.judged[ID]), judge.scores(world.judged[EXPOSED])
    for ood, epistemic in zip(
        disambiguation.OOD_SCORES, disambiguation.EPISTEMIC_SCORES, strict=True
    ):
        drop = auroc(of_id[ood], shown[ood]) - auroc(of_id[epistemic], shown[epistemic])
        assert drop > 0.15, (ood, epistemic)


def test_what_an_arm_records(small: Study, world: World) -> None:
    arm = small.arms[1]
    found = measure_arm(small, arm, world, 3)
    networks = [
        disambiguation.trained_network(
            small.recipe,
            SPEC,
            world.known,
            world.outliers,
            "binary_head",
            disambiguation._member_seed(3, member),
        )
        for member in range(2)
    ]
    assert torch.any(networks[0].classifier.head.weight != networks[1].classifier.head.weight)
    judge = Judge.of(networks, world.known, world.outliers)
    scores = {name: judge.scores(data) for name, data in world.judged.items()}
    assert set(found["auroc"]["id_kde"]) == {AMBIGUOUS, EXPOSED, "noise"}
    area = auroc(scores[ID]["id_kde"], scores["noise"]["id_kde"])
    assert found["auroc"]["id_kde"]["noise"] == pytest.approx(area, abs=1e-4)
    new = auroc(scores[EXPOSED]["all_kde"], scores["noise"]["all_kde"])
    assert found["new"]["all_kde"] == pytest.approx(new, abs=1e-4)
    pairs = [
        np.concatenate([scores[name][score] for name in scores])
        for score in ("mutual_information", "id_gda")
    ]
    assert found["follows"]["id_gda"] == pytest.approx(spearmanr(*pairs).statistic, abs=1e-4)
    assert 0.2 < found["accuracy"] <= 1


def test_every_arm_and_seed_is_measured_once(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt in the middle of an arm costs that arm alone."""
    measured: list[tuple[str, int]] = []

    def measure(study: Study, arm: Arm, world: World, seed: int) -> dict[str, Any]:
        if (arm.name, seed) == ("head", 1) and len(measured) == 3:
            raise KeyboardInterrupt
        measured.append((arm.name, seed))
        return {"accuracy": seed}

    monkeypatch.setattr(disambiguation, "measure_arm", measure)
    with pytest.raises(KeyboardInterrupt):
        measure_disambiguation(small, (0, 1), tmp_path)
    assert not disambiguation_finished(small, (0, 1), tmp_path)
    assert disambiguation_finished(small, (0,), tmp_path)
    measured.clear()
    found = measure_disambiguation(small, (0, 1), tmp_path)
    assert measured == [("head", 1)]
    assert json.loads((tmp_path / "study.json").read_text()) == found
    assert disambiguation_finished(small, (0, 1), tmp_path)
    changed = small.model_copy(update={"test_count": 70})
    assert not disambiguation_finished(changed, (0,), tmp_path)
    with pytest.raises(ValueError, match="at least one seed"):
        measure_disambiguation(small, (), tmp_path)


def test_the_shipped_study_is_whole() -> None:
    study = load_disambiguation()
    assert len({arm.name for arm in study.arms}) == len(study.arms)
    assert set(study.sets()) >= {"train", "test", "exposed", "exposed_test", *study.unseen}
    values = study.model_dump()
    values["unseen"] = {"exposed": values["unseen"]["noise"]}
    with pytest.raises(ValueError, match=r"unseen sets are called \['exposed'\]"):
        Study.model_validate(values)
