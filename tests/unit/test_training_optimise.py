"""The epoch loop resumes to the same weights; the LeNet is the published one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toy import SPEC, TOY_SPEC, ToyNet, toy_pixels

from training.augmentation import AUGMENTATIONS
from training.backbones import BACKBONES
from training.backbones.lenet import LeNet
from training.classifier import Classifier, ImageClassifier
from training.config import ObjectiveConfig, OptimiserConfig, Stage
from training.data import ImageSet
from training.objectives import OBJECTIVES, Batch
from training.objectives.cross_entropy import CrossEntropy
from training.optimise import CheckpointMismatch, Run, train

PLAIN = ObjectiveConfig()
RECIPE = OptimiserConfig(name="adadelta", lr=1.0, decay_per_epoch=0.7, epochs=3, batch_size=32)


def stripes() -> ImageSet:
    pixels, labels = toy_pixels(300, seed=1)
    return ImageSet("stripes", pixels.numpy(), labels.numpy(), tuple("abcd"), "made here")


def fresh() -> Classifier:
    torch.manual_seed(5)
    return ImageClassifier(ToyNet(), TOY_SPEC)


def run(classifier: Classifier, checkpoint: Path, recipe: OptimiserConfig = RECIPE) -> list[float]:
    objective = OBJECTIVES["cross_entropy"]()
    identity = Run("toy", {}, PLAIN, recipe, 7)
    return list(train(classifier, stripes(), objective, identity, checkpoint).losses)


def test_a_cut_run_resumes_to_the_weights_of_an_uncut_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fresh()
    losses = run(whole, tmp_path / "whole.pt")
    assert losses[-1] < losses[0]

    cut = fresh()
    calls = 0
    forward = CrossEntropy.forward

    def breaks_in_the_second_epoch(self, batch, classifier):
        nonlocal calls
        calls += 1
        if calls > 15:  # ten batches an epoch
            raise KeyboardInterrupt
        return forward(self, batch, classifier)

    identity = Run("toy", {}, PLAIN, RECIPE, 7)
    monkeypatch.setattr(CrossEntropy, "forward", breaks_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(cut, stripes(), CrossEntropy(), identity, tmp_path / "cut.pt")
    monkeypatch.undo()
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
        run(ImageClassifier(ToyNet(), other_mean), tmp_path / "c.pt")
    for identity in (
        Run("other", {}, PLAIN, RECIPE, 7),
        Run("toy", {}, ObjectiveConfig(options={"logit_adjustment": 1.0}), RECIPE, 7),
        Run("toy", {}, PLAIN, RECIPE, 7, start="abc"),
    ):
        with pytest.raises(CheckpointMismatch):
            train(fresh(), stripes(), CrossEntropy(), identity, tmp_path / "c.pt")


def test_a_diverging_loss_stops_the_run(tmp_path: Path) -> None:
    recipe = OptimiserConfig(name="sgd", lr=1e6, epochs=2, batch_size=32)
    with pytest.raises(FloatingPointError, match="lower lr"):
        run(fresh(), tmp_path / "c.pt", recipe)


def test_a_small_lenet_has_fewer_maps_and_larger_poolings() -> None:
    small = LeNet(1, 10, width=8, pool=4)
    outputs = small(torch.zeros(2, 1, 28, 28))
    assert [tuple(tap.shape[1:]) for tap in outputs.taps.values()] == [
        (8, 26, 26),
        (16, 24, 24),
        (128,),
        (10,),
    ]
    assert small.fc1.in_features == 16 * 6 * 6
    for options in ({"width": 0}, {"pool": 0}, {"pool": 25}):
        with pytest.raises(ValueError, match="lenet: width"):
            LeNet(1, 10, **options)


def test_lenet_is_the_published_one() -> None:
    backbone = BACKBONES["lenet"](1, 10)
    assert isinstance(backbone, LeNet)
    assert sum(p.numel() for p in backbone.parameters()) == 1_199_882
    outputs = ImageClassifier(backbone, SPEC).eval()(torch.zeros(2, 28, 28, 1, dtype=torch.uint8))
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
    (loss,) = CrossEntropy()(Batch(outputs, labels), fresh()).values()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_augmentation_keeps_shape_and_content() -> None:
    pixels = torch.arange(1, 2 * 8 * 8 * 3 + 1).view(2, 8, 8, 3).to(torch.uint8)
    torch.manual_seed(0)
    batch = pixels.repeat(50, 1, 1, 1)
    flipped = AUGMENTATIONS["flip"](batch)
    mirrored = (flipped == batch.flip(2)).all(dim=(1, 2, 3))
    kept = (flipped == batch).all(dim=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 30 < mirrored.sum() < 70
    cropped = AUGMENTATIONS["crop"](batch)
    assert cropped.shape == batch.shape
    assert cropped.dtype == torch.uint8
    padded = torch.nn.functional.pad(pixels[0], (0, 0, 4, 4, 4, 4))
    windows = {padded[y : y + 8, x : x + 8].numpy().tobytes() for y in range(9) for x in range(9)}
    seen = {image.numpy().tobytes() for image in cropped[::2]}
    assert seen <= windows
    assert len(seen) > 20


def test_the_cosine_schedule_ends_at_nothing_and_stages_change_the_size(tmp_path: Path) -> None:
    sides: list[int] = []

    class Watching(ToyNet):
        def forward(self, images: torch.Tensor):
            sides.append(images.shape[2])
            return super().forward(images)

    recipe = OptimiserConfig(
        name="sgd",
        lr=0.1,
        schedule="cosine",
        epochs=3,
        batch_size=32,
        stages=(Stage(epoch=0, side=8), Stage(epoch=2, side=12)),
    )
    torch.manual_seed(5)
    run(ImageClassifier(Watching(), TOY_SPEC), tmp_path / "c.pt", recipe)
    assert sides == [8] * 20 + [12] * 10
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    rates = state["schedule"]["_last_lr"]
    assert rates == pytest.approx([1e-6], rel=1e-6)


def test_the_wide_resnet_is_the_published_one() -> None:
    backbone = BACKBONES["wrn_40_2"](3, 10, dropout=0.3)
    assert isinstance(backbone, torch.nn.Module)
    assert sum(p.numel() for p in backbone.parameters()) == 2_243_546
    spec = TOY_SPEC.model_copy(
        update={"height": 32, "width": 32, "channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    )
    classifier = ImageClassifier(backbone, spec).eval()
    outputs = classifier(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    shapes = {name: tuple(tap.shape[1:]) for name, tap in outputs.taps.items()}
    assert shapes == {
        "stem": (16, 32, 32),
        "group1": (32, 32, 32),
        "group2": (64, 16, 16),
        "group3": (128, 8, 8),
    }
    torch.testing.assert_close(classifier.head(outputs.features), outputs.logits)
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        BACKBONES["wrn_40_2"](3, 10, depth=41)
