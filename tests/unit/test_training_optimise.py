"""The epoch loop resumes to the same weights; the LeNet is the published one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy import SPEC, TOY_SPEC, ToyNet, toy_pixels

from training.backbones import BACKBONES
from training.backbones.lenet import LeNet
from training.classifier import Classifier
from training.config import OptimiserConfig
from training.data import ImageSet
from training.objectives import OBJECTIVES
from training.optimise import CheckpointMismatch, Run, train

RECIPE = OptimiserConfig(name="adadelta", lr=1.0, decay_per_epoch=0.7, epochs=3, batch_size=32)


def stripes() -> ImageSet:
    pixels, labels = toy_pixels(300, seed=1)
    return ImageSet("stripes", pixels.numpy(), labels.numpy(), tuple("abcd"), "made here")


def fresh() -> Classifier:
    torch.manual_seed(5)
    return Classifier(ToyNet(), TOY_SPEC)


def run(classifier: Classifier, checkpoint: Path, recipe: OptimiserConfig = RECIPE) -> list[float]:
    objective = OBJECTIVES["cross_entropy"]
    identity = Run("toy", "cross_entropy", recipe, 7)
    return list(train(classifier, stripes(), objective, identity, checkpoint).losses)


def test_a_cut_run_resumes_to_the_weights_of_an_uncut_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fresh()
    losses = run(whole, tmp_path / "whole.pt")
    assert losses[-1] < losses[0]

    cut = fresh()
    calls = 0
    objective = OBJECTIVES["cross_entropy"]

    def breaks_in_the_second_epoch(outputs, labels):
        nonlocal calls
        calls += 1
        if calls > 15:  # ten batches an epoch
            raise KeyboardInterrupt
        return objective(outputs, labels)

    identity = Run("toy", "cross_entropy", RECIPE, 7)
    with pytest.raises(KeyboardInterrupt):
        train(cut, stripes(), breaks_in_the_second_epoch, identity, tmp_path / "cut.pt")
    resumed = fresh()
    assert run(resumed, tmp_path / "cut.pt") == losses
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run(fresh(), tmp_path / "c.pt")
    with pytest.raises(CheckpointMismatch, match=r"c\.pt"):
        run(fresh(), tmp_path / "c.pt", RECIPE.model_copy(update={"lr": 0.5}))
    other_mean = TOY_SPEC.model_copy(update={"mean": (0.4,)})
    with pytest.raises(CheckpointMismatch):
        run(Classifier(ToyNet(), other_mean), tmp_path / "c.pt")
    for identity in (Run("other", "cross_entropy", RECIPE, 7), Run("toy", "other", RECIPE, 7)):
        with pytest.raises(CheckpointMismatch):
            train(fresh(), stripes(), OBJECTIVES["cross_entropy"], identity, tmp_path / "c.pt")


def test_a_diverging_loss_stops_the_run(tmp_path: Path) -> None:
    recipe = OptimiserConfig(name="sgd", lr=1e6, epochs=2, batch_size=32)
    with pytest.raises(FloatingPointError, match="lower lr"):
        run(fresh(), tmp_path / "c.pt", recipe)


def test_lenet_is_the_published_one() -> None:
    backbone = BACKBONES["lenet"](1, 10)
    assert isinstance(backbone, LeNet)
    assert sum(p.numel() for p in backbone.parameters()) == 1_199_882
    outputs = Classifier(backbone, SPEC).eval()(torch.zeros(2, 28, 28, 1, dtype=torch.uint8))
    flat = {name: tap.flatten(1).shape[1] for name, tap in outputs.taps.items()}
    assert flat == {"conv1": 21632, "conv2": 36864, "fc1": 128, "logits": 10}
    assert outputs.features.shape == (2, 128)
    maps, features = backbone.dropout_maps, backbone.dropout_features
    assert (maps.p, features.p) == (0.25, 0.5)


def test_cross_entropy_against_numpy() -> None:
    outputs = fresh()(toy_pixels(8, seed=1)[0])
    labels = torch.arange(8) % 4
    logits = outputs.logits.detach().double().numpy()
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -logs[np.arange(8), labels].mean()
    assert OBJECTIVES["cross_entropy"](outputs, labels).item() == pytest.approx(expected, rel=1e-5)
