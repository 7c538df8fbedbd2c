"""Classifiers of torchvision and timm, by their names and a file of weights."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from own_models import WAVES, Sorter, teach_head, waves, write_waves, write_weights
from torch import nn
from typer.testing import CliRunner

from service.bundle import FORWARD, read_manifest
from training.backbones.layers import choose_taps, survey
from training.cli import app
from training.config import load_config
from training.export import open_network, relative_gap
from training.fit.networks import NetworkFlags, network_of
from training.restore import load_scorers

SIDE = 64
# torchvision's recipe for its own weights; the timm model here has another, given by flags
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHOSEN = ["--detectors", "msp,energy,knn,mahalanobis"]

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="the extra timm is not installed"
)
NAMED = [
    ("torchvision:resnet18", "fc", ["relu", "layer1", "layer2", "layer3"]),
    pytest.param(
        "timm:test_resnet", "fc", ["act1", "layer1", "layer2", "layer3"], marks=needs_timm
    ),
]


def made(name: str, classes: int = len(WAVES), **more: Any) -> nn.Module:
    library, _, model = name.partition(":")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        return timm.create_model(model, num_classes=classes, **more)
    from torchvision import models

    return models.get_model(model, weights=None, num_classes=classes, **more)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["fit", *words])


@pytest.mark.parametrize(("name", "head", "taps"), NAMED)
def test_a_name_and_a_file_of_weights_make_a_bundle(
    name: str, head: str, taps: list[str], tmp_path: Path
) -> None:
    network = teach_head(made(name), head, SIDE, MEAN, STD)
    weights = tmp_path / "weights.pt"
    torch.save(network.state_dict(), weights)
    write_waves(tmp_path / "photos", 240, SIDE)
    recipe = ["--weights", str(weights), "--size", str(SIDE)]
    recipe += ["--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
    if name.startswith("torchvision"):
        recipe = recipe[:4]  # mean and std are known

    listed = invoke(name, *recipe, "--list-layers")
    assert listed.exit_code == 0, repr(listed.exception)
    lines = listed.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*")] == taps
    # three classes: of the file, where there are no data yet
    assert lines[-1].endswith("features -> 3 classes")

    words = ["--data", str(tmp_path / "photos"), "--name", "waves", *CHOSEN]
    result = invoke(name, *recipe, *words, "--models", str(tmp_path / "models"))
    assert result.exit_code == 0, result.output + repr(result.exception)
    bundle = Path(result.stdout.splitlines()[-1])
    manifest = read_manifest(bundle)
    assert manifest.class_names == WAVES
    assert manifest.input.mean == MEAN
    assert load_config(bundle.with_suffix(".toml")).backbone == name.partition(":")[0]

    pixels, labels = waves(30, SIDE, seed=2)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        expected = network.eval()(images).numpy()
    given = open_network(bundle / FORWARD)(pixels)["logits"]
    assert relative_gap(expected, given) < 1e-3
    assert (given.argmax(1) == labels).mean() > 0.5
    # the file of weights may be gone by then
    weights.unlink()
    with torch.no_grad():
        again = load_scorers(bundle).forward(torch.from_numpy(pixels))["logits"].numpy()
    assert relative_gap(expected, again) < 1e-4


@pytest.mark.parametrize(
    ("model", "given", "tapped"),
    [
        ("vit_b_32", {"image_size": SIDE}, "encoder.layers.encoder_layer_2"),
        ("mobilenet_v3_small", {}, "features.1"),
        ("convnext_tiny", {}, "features.1"),
        ("efficientnet_b0", {}, "features.1"),
        ("swin_t", {}, "features.1"),
    ],
)
def test_other_families_of_torchvision_are_surveyed(
    model: str, given: dict[str, Any], tapped: str
) -> None:
    with torch.device("meta"):
        network = made(f"torchvision:{model}", **given)
    network = network.to_empty(device="cpu")
    for parameter in network.state_dict().values():
        parameter.zero_()
    choice = choose_taps(survey(network, torch.zeros(2, 3, SIDE, SIDE)))
    assert tapped in choice.taps
    assert choice.channels_last == (model == "swin_t")
    assert choice.tokens == ("class" if model == "vit_b_32" else "map")


def test_blocks_are_told_from_what_is_in_them() -> None:
    """A block's own numbered parts outnumber the blocks."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.drop1, self.norm2, self.drop2 = (nn.LayerNorm(6) for _ in "abcd")

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.drop2(self.norm2(self.drop1(self.norm1(tokens))))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block(), Block())
            self.head = nn.Linear(6, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = images.flatten(2).transpose(1, 2)
            return self.head(self.blocks(tokens)[:, 0])

    torch.manual_seed(0)
    choice = choose_taps(survey(Tokens(), torch.rand(2, 6, 2, 2)))
    assert choice.taps == ("blocks.0", "blocks.1")


@needs_timm
def test_timm_says_what_its_images_are() -> None:
    network = network_of("timm:resnet18.a1_in1k", NetworkFlags(weights="some.safetensors"))
    import timm

    known = timm.get_pretrained_cfg("resnet18.a1_in1k")
    form: Any = network.form
    assert (form.height, form.width) == known.input_size[1:]
    assert form.mean == known.mean
    assert form.interpolation == known.interpolation
    assert form.resize == "center_crop"


@needs_timm
@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("resnet99", "{}", "near: resnet"),
        ("hf-hub:someone/something", "{}", "no classifier"),
        ("test_resnet", '{"pretrained": true}', "cannot be in arguments"),
        ("test_resnet", '{"checkpoint_path": "x"}', "cannot be in arguments"),
        ("test_resnet", '{"widths": [1]}', "refuses the arguments"),
    ],
)
def test_timm_loads_nothing_from_elsewhere(model: str, arguments: str, said: str) -> None:
    result = invoke(f"timm:{model}", "--weights", "w.pt", "--arguments", arguments, "--list-layers")
    assert result.exit_code == 1
    assert said in str(result.exception)


def test_timm_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    result = invoke("timm:resnet18", "--weights", "w.pt", "--list-layers")
    assert result.exit_code == 1
    assert "pip install 'oodscore[timm]'" in str(result.exception)


def test_a_file_that_is_not_of_the_network(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "w.pt")
    result = invoke(
        "torchvision:shufflenet_v2_x0_5", "--weights", str(tmp_path / "w.pt"), "--list-layers"
    )
    assert result.exit_code == 1
    assert "has no fc.weight" in str(result.exception)


def test_a_network_that_cannot_run_on_such_images_says_so(tmp_path: Path) -> None:
    write_weights(Sorter(), tmp_path / "w.safetensors")
    words = ["own_models:Sorter", "--weights", str(tmp_path / "w.safetensors"), "--std", "0.3"]
    result = invoke(*words, "--size", "30", "--mean", "0.3", "--list-layers")
    assert result.exit_code == 1
    assert "does not run on images of 30 x 30 pixels and 1 channels" in str(result.exception)
