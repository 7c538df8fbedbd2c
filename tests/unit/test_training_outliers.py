"""Outliers in training: where they come from, how they are mixed in, what they must not be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import SPEC, TOY_SPEC, ToyNet, noise_pixels, toy_outliers, toy_pixels, write_digits

from training.batches import OutlierStream, epoch_batches
from training.classifier import Classifier, ImageClassifier
from training.config import (
    DataConfig,
    ObjectiveConfig,
    OptimiserConfig,
    OutliersConfig,
    RunConfig,
    TextConfig,
)
from training.config_checks import check_config
from training.data import DataError, DataUnavailable, ImageSet, load_roles
from training.objectives import OBJECTIVES
from training.optimise import Run, train
from training.starting_weights import load_starting_weights

RECIPE = OptimiserConfig(name="adam", lr=0.01, epochs=4, batch_size=32)


def images(name: str, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> ImageSet:
    known = labels.numpy() if labels is not None else np.full(len(pixels), -1)
    return ImageSet(name, pixels.numpy(), known, tuple("abcd") if labels is not None else (), name)


def stripes(count: int = 300) -> ImageSet:
    return images("stripes", *toy_pixels(count, seed=1))


def fresh() -> Classifier:
    torch.manual_seed(5)
    return ImageClassifier(ToyNet(), TOY_SPEC)


def trained(
    objective: ObjectiveConfig, checkpoint: Path, recipe: OptimiserConfig = RECIPE
) -> Classifier:
    network = fresh()
    made = OBJECTIVES[objective.name](**objective.options)
    outliers = images("noise", toy_outliers(200, seed=8)) if made.reads_outliers else None
    train(network, stripes(), made, Run("toy", {}, objective, recipe, 7), checkpoint, outliers)
    return network


@torch.no_grad()
def confidence(network: Classifier, pixels: torch.Tensor) -> float:
    return network(pixels).logits.softmax(1).amax(1).mean().item()


def test_exposure_lowers_the_confidence_on_outliers_of_the_kind(tmp_path: Path) -> None:
    plain = trained(ObjectiveConfig(), tmp_path / "plain.pt")
    exposed = trained(ObjectiveConfig(name="outlier_exposure"), tmp_path / "exposed.pt")
    unseen = toy_outliers(100, seed=9)
    assert confidence(exposed, unseen) < confidence(plain, unseen) - 0.1
    pixels, labels = toy_pixels(200, seed=3)
    assert (exposed(pixels).logits.argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(name="outlier_exposure"),
        ObjectiveConfig(name="parzen_repulsion", options={"queue": 40}),
        ObjectiveConfig(name="binary_head", options={"head": "mlp"}),
    ],
    ids=lambda objective: objective.name,
)
def test_a_cut_run_with_outliers_resumes_to_the_same_weights(
    objective: ObjectiveConfig, tmp_path: Path
) -> None:
    whole = trained(objective, tmp_path / "whole.pt")
    state = torch.load(tmp_path / "whole.pt", weights_only=True)
    trained(objective, tmp_path / "cut.pt", RECIPE.model_copy(update={"epochs": 2}))
    cut = torch.load(tmp_path / "cut.pt", weights_only=True)
    # a constant rate does not depend on the number of epochs: half a run is the start of a whole
    torch.save({**cut, "identity": state["identity"]}, tmp_path / "cut.pt")
    resumed = trained(objective, tmp_path / "cut.pt")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


def test_the_order_of_id_does_not_depend_on_outliers(tmp_path: Path) -> None:
    seen: dict[str, list[bytes]] = {}

    class Watching(ToyNet):
        name = ""

        def forward(self, images: torch.Tensor):
            if self.training:
                seen.setdefault(self.name, []).append(images[:32].detach().numpy().tobytes())
            return super().forward(images)

    recipe = RECIPE.model_copy(update={"epochs": 2, "batch_size": 50})
    for name in ("cross_entropy", "outlier_exposure"):
        network = ImageClassifier(Watching(), TOY_SPEC)
        network.backbone.name = name
        objective = OBJECTIVES[name]()
        outliers = images("noise", noise_pixels(70, 8)) if objective.reads_outliers else None
        run = Run("toy", {}, ObjectiveConfig(name=name), recipe, 7)
        train(network, stripes(), objective, run, tmp_path / f"{name}.pt", outliers)
    assert seen["cross_entropy"] == seen["outlier_exposure"]


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 32), (2 / 3, 64), (0.2, 8), (0.001, 1)])
def test_the_mixture_is_the_share_of_outliers_beside_the_id_batch(
    fraction: float, expected: int
) -> None:
    assert ObjectiveConfig(outlier_fraction=fraction).outliers_beside(32) == expected


def test_every_outlier_comes_once_before_any_comes_again() -> None:
    stream = OutlierStream(10, seed=3)
    taken = torch.cat([stream.take(4) for _ in range(5)])
    for start in (0, 10):
        assert sorted(taken[start : start + 10].tolist()) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()


def test_class_balanced_batches_hold_every_class_alike() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 50, 20, 5])
    data = ImageSet("s", np.zeros((175, 2, 2, 1), np.uint8), labels, tuple("abcd"), "")
    recipe = RECIPE.model_copy(update={"batch_size": 12, "classes_per_batch": 3})
    torch.manual_seed(0)
    batches = epoch_batches(data, recipe)
    assert len(batches) == 15
    for batch in batches:
        classes, counts = np.unique(labels[batch], return_counts=True)
        assert len(classes) == 3
        assert set(counts) == {4}
    rare = torch.cat([b[labels[b] == 3] for b in batches])[:5]
    assert len(rare.unique()) == 5, "each of a class before any again"
    with pytest.raises(ValueError, match="has 4 classes"):
        epoch_batches(data, recipe.model_copy(update={"classes_per_batch": 6}))


def test_a_start_from_weights_is_a_start_from_them(tmp_path: Path) -> None:
    network = trained(ObjectiveConfig(), tmp_path / "base.pt")
    other = fresh()
    digest = load_starting_weights(other, str(tmp_path / "base.pt"))
    assert len(digest) == 64
    for name, value in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)
    for path, reason in (("nowhere.pt", "no file"), ("${NOT_SET}/a.pt", "no file")):
        with pytest.raises(ValueError, match=reason):
            load_starting_weights(other, path)

    class Wider(ToyNet):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = torch.nn.Linear(6, 17)

    with pytest.raises(ValueError, match="does not fit this network"):
        load_starting_weights(ImageClassifier(Wider(), TOY_SPEC), str(tmp_path / "base.pt"))


def data_config(folder: Path) -> DataConfig:
    return DataConfig.model_validate(
        {
            "train": [{"source": "npz", "path": str(folder / "train.npz")}],
            "test": [{"source": "npz", "path": str(folder / "test.npz")}],
            "dev_count": 50,
            "cal_count": 100,
            "test_ood": {
                "noise": [{"source": "noise", "kind": "uniform", "count": 50, "seed": 1}],
            },
        }
    )


def outliers_config(count: int | None = None, **sources) -> OutliersConfig:
    return OutliersConfig.model_validate({"sources": sources, "count": count})


def noise(seed: int, count: int = 60) -> list[dict]:
    return [{"source": "noise", "kind": "uniform", "count": count, "seed": seed}]


def test_outliers_are_drawn_evenly_and_are_in_the_fingerprints(tmp_path: Path) -> None:
    write_digits(tmp_path)
    config = outliers_config(51, first=noise(2), second=noise(3, 40))
    roles = load_roles(data_config(tmp_path), SPEC, 0, config)
    assert roles.outliers is not None
    assert len(roles.outliers) == 51
    assert (roles.outliers.labels == -1).all()
    assert "26 of first" in roles.outliers.origin
    assert "25 of second" in roles.outliers.origin
    assert "outliers" in roles.fingerprints()
    assert roles.counts()["outliers"] == 51
    again = load_roles(data_config(tmp_path), SPEC, 0, config)
    assert again.fingerprints() == roles.fingerprints()
    with pytest.raises(DataError, match="count = 90 asks for 45 images of second, which has 40"):
        load_roles(
            data_config(tmp_path), SPEC, 0, outliers_config(90, first=noise(2), second=noise(3, 40))
        )


def test_a_set_that_is_reported_is_not_trained_on(tmp_path: Path) -> None:
    write_digits(tmp_path)
    same = outliers_config(again=noise(1, 50))
    with pytest.raises(DataError, match=r"50 images of noise also stand in the training outliers"):
        load_roles(data_config(tmp_path), SPEC, 0, same)
    own = outliers_config(own=[{"source": "npz", "path": str(tmp_path / "test.npz")}])
    with pytest.raises(DataError, match="of test_id also stand"):
        load_roles(data_config(tmp_path), SPEC, 0, own)
    absent = outliers_config(absent=[{"source": "npz", "path": str(tmp_path / "none.npz")}])
    with pytest.raises(DataUnavailable, match="outliers absent"):
        load_roles(data_config(tmp_path), SPEC, 0, absent)


def test_texts_are_outliers_too_whatever_their_lengths(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]

    def write(name: str, count: int, labelled: bool) -> None:
        with (tmp_path / name).open("w") as file:
            for i in range(count):
                text = " ".join(rng.choice(words, rng.integers(3, 12)))
                row = {"text": text} | ({"label": f"c{i % 3}"} if labelled else {})
                file.write(json.dumps(row) + "\n")

    for name, count, labelled in (
        ("train", 200, True), ("test", 40, True), ("ood", 20, False), ("outliers", 30, False)
    ):  # fmt: skip
        write(f"{name}.jsonl", count, labelled)

    def source(name: str) -> list[dict]:
        return [{"source": "jsonl", "path": str(tmp_path / f"{name}.jsonl")}]

    data = DataConfig.model_validate(
        {
            "train": source("train"),
            "test": source("test"),
            "dev_count": 20,
            "cal_count": 20,
            "test_ood": {"ood": source("ood")},
        }
    )
    text = TextConfig.model_validate({"max_tokens": 16, "tokenizer": {"kind": "word"}})
    config = outliers_config(
        files=source("outliers"), noise=[{"source": "noise_tokens", "count": 25, "tokens": 14}]
    )
    roles = load_roles(data, text, 0, config)
    assert roles.outliers is not None
    assert len(roles.outliers) == 55
    assert roles.outliers.inputs.shape[1] == 14
    with pytest.raises(DataError, match="20 texts of ood also stand"):
        load_roles(data, text, 0, outliers_config(ood=source("ood")))


def run_config(**changes) -> RunConfig:
    nowhere = [{"source": "npz", "path": "/nowhere.npz"}]
    values = {
        "name": "checked",
        "description": "checked, never run",
        "backbone": "lenet",
        "input": SPEC.model_dump(),
        "optimiser": {"name": "adadelta", "lr": 1.0, "epochs": 14, "batch_size": 64},
        "data": {
            "train": nowhere,
            "test": nowhere,
            "dev_count": 100,
            "cal_count": 300,
            "test_ood": {},
        },
        "detectors": [{"name": "msp"}],
        "primary": "msp",
    }
    return RunConfig.model_validate(values | changes)


EXPOSED = {"sources": {"noise": noise(2)}}


def test_objectives_that_fit_pass_the_check() -> None:
    check_config(run_config(objective="cross_entropy"))
    check_config(run_config(objective={"name": "binary_head"}, outliers=EXPOSED))
    check_config(run_config(objective="vmdls", backbone_options={"latent_dim": 8}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective": "outlier_exposure"}, "needs outliers to train on"),
        ({"outliers": EXPOSED}, "cross_entropy reads no outliers"),
        ({"objective": {"outlier_fraction": 0.3}}, "there is no outlier_fraction"),
        ({"objective": {"weights": {"outliers": 1.0}}}, r"\['outliers'\] belong to no term"),
        ({"objective": {"weights": {"cross_entropy": 0.0}}}, "every weight is 0"),
        ({"objective": {"options": {"margin": 1}}}, "unexpected keyword argument 'margin'"),
        ({"objective": "vmdls"}, "set latent_dim"),
        ({"detectors": [{"name": "msp"}, {"name": "binary_head"}]}, "reads the head 'outliers'"),
        ({"detectors": [{"name": "msp"}, {"name": "kde_all"}]}, "fitted on training outliers"),
        ({"backbone_options": {"latent_dim": 0}}, "latent_dim is 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(changes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_config(run_config(**changes))


def test_mixed_precision_on_a_cpu_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    recipe = RECIPE.model_copy(update={"mixed_precision": True})
    with pytest.raises(ValueError, match="mixed_precision is for a GPU; this run is on the cpu"):
        trained(ObjectiveConfig(), tmp_path / "c.pt", recipe)
