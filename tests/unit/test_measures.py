"""What studies measure of a latent space, each against its definition or a known answer."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import TOY_SPEC, toy_classifier

from training.data import ImageSet, Roles
from training.detectors.vmdls_b import VmdlsB
from training.evaluation.metrics import auroc
from training.measures import MEASURES, Measured
from training.measures.latent_shape import (
    class_cosine,
    effective_rank,
    linear_cka,
    within_share,
)
from training.measures.measured import chosen


def images(name: str, count: int, seed: int, classes: int = 4) -> ImageSet:
    rng = np.random.default_rng(seed)
    shape = (count, TOY_SPEC.height, TOY_SPEC.width, TOY_SPEC.channels)
    labels = np.arange(count) % max(classes, 1) if classes else np.full(count, -1)
    bright = 40 * (labels + 1).clip(min=0)
    pixels = rng.integers(0, 90, shape) + bright[:, None, None, None]
    return ImageSet(name, pixels.astype(np.uint8), labels, tuple("abcd"[:classes]), "made")


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    train = images("train_id", 400, 0)
    roles = Roles(
        train,
        images("dev_id", 50, 1),
        images("cal_id", 100, 2),
        images("test_id", 200, 3),
        {"labelled": images("labelled", 160, 4), "bare": images("bare", 60, 5, classes=0)},
        {},
        {},
        {},
        TOY_SPEC,
        None,
        (),
    )
    network = copy.deepcopy(toy_classifier())
    return Measured(network, roles, 150, tmp_path / "runs" / "reference.npy", first=True)


def test_every_measure_gives_what_json_holds_and_asks_no_gradient(measured: Measured) -> None:
    for measure in MEASURES.values():
        found = measure(measured)
        assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_shape_of_a_latent_space(measured: Measured) -> None:
    found = MEASURES["latent_shape"](measured)
    assert found["alignment"] == pytest.approx(1)  # with itself
    z, labels = measured.features(measured.roles.test_id)
    assert z.shape[0] == 150
    assert (labels == measured.roles.test_id.labels[chosen(200, 150)]).all()
    bare, _ = measured.features(measured.roles.test_ood["bare"])
    expected = bare.var(0, ddof=1).sum() / z.var(0, ddof=1).sum()
    assert found["ood"]["bare"] == {"spread": pytest.approx(expected)}
    assert found["ood"]["labelled"]["linear"] > 0.9, "brightness tells the classes"
    assert found["ood"]["labelled"]["neighbours"] > 0.7
    assert found["stretch"] == sorted(found["stretch"])


def test_a_later_arm_is_held_against_the_first(measured: Measured) -> None:
    later = Measured(
        measured.classifier, measured.roles, measured.limit, measured.reference, first=False
    )
    with pytest.raises(FileNotFoundError, match="first arm writes it"):
        MEASURES["latent_shape"](later)
    measured.reference.parent.mkdir()
    other = np.random.default_rng(0).normal(size=(150, 7))
    np.save(measured.reference, other)
    z, _ = measured.features(measured.roles.test_id)
    assert MEASURES["latent_shape"](later)["alignment"] == pytest.approx(linear_cka(z, other))


def test_the_effective_rank_of_known_spectra() -> None:
    assert effective_rank(np.diag([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert effective_rank(np.diag([1.0, 0.0])) == pytest.approx(1)


def test_collapsed_classes_have_the_cosines_of_a_simplex_and_nothing_within() -> None:
    z, labels = np.repeat(np.eye(5), 20, axis=0), np.repeat(np.arange(5), 20)
    assert class_cosine(z, labels) == pytest.approx(-1 / 4)
    assert within_share(z, labels) == pytest.approx(0)
    rng = np.random.default_rng(0)
    assert within_share(rng.normal(size=(2000, 3)), rng.integers(0, 5, 2000)) > 0.98


def test_alignment_sees_through_rotation_and_scale_and_against_its_definition() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(80, 6)), rng.normal(size=(80, 4))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert linear_cka(one, 3 * one @ turn + 2) == pytest.approx(1)
    centre = np.eye(80) - 1 / 80
    grams = [centre @ part @ part.T @ centre for part in (one, other)]
    expected = (grams[0] * grams[1]).sum() / np.linalg.norm(grams[0]) / np.linalg.norm(grams[1])
    assert linear_cka(one, other) == pytest.approx(expected)


def test_layer_ensembles_are_vmdls_b_of_the_last_layers(measured: Measured) -> None:
    found = MEASURES["layer_ensembles"](measured)
    layers = [name for name in measured.classifier.tap_names if name != "logits"]
    assert list(found) == ["+".join(layers[first:]) for first in range(len(layers))]
    detector = VmdlsB()
    train = measured.roles.train_id
    with torch.no_grad():
        for outputs, labels in measured.outputs(train, len(train)):
            detector.observe(outputs, labels)
        detector.finish()
        scores = [
            torch.cat([detector(outputs)["vmdls_b"] for outputs, _ in measured.outputs(data)])
            for data in (measured.roles.test_id, measured.roles.test_ood["bare"])
        ]
    whole = found["+".join(layers)]["bare"]
    assert whole["auroc"] == pytest.approx(auroc(scores[0].numpy(), scores[1].numpy()))
    assert set(whole) == {"auroc", "f1_train", "f1_cal"}


def test_a_plane_of_many_dimensions_is_that_of_the_principal_components(
    measured: Measured,
) -> None:
    found = MEASURES["plane"](measured)
    z, labels = measured.features(measured.roles.test_id)
    centred = z - z.mean(0)
    wanted = np.linalg.svd(centred, full_matrices=False)[1][:2]
    points = np.array(found["id"])
    assert np.linalg.norm(points, axis=0) == pytest.approx(wanted, rel=1e-2)
    assert found["labels"] == labels.tolist()
    assert set(found["ood"]) == {"labelled", "bare"}
