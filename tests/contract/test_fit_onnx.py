"""An ONNX classifier without PyTorch: its own graph, with the scores behind it."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from own_models import MEAN, STD, trained_sorter, write_onnx, write_photos
from PIL import Image
from typer.testing import CliRunner

from service.bundle import FORWARD, read_manifest
from training.backbones.onnx_model import OnnxModel
from training.cli import app
from training.export import open_network, relative_gap
from training.fitting import torch_network
from training.restore import load_scorers

INPUT = ["--mean", str(MEAN), "--std", str(STD)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sorter.onnx, another one with a softmax behind it, photos/."""
    folder = tmp_path_factory.mktemp("shop")
    network = trained_sorter()
    write_onnx(network, folder / "sorter.onnx")
    write_onnx(network, folder / "softmax.onnx", softmax=True, opset=18)
    write_photos(folder / "photos")
    return folder


def fit(shop: Path, *more: str, file: str = "sorter.onnx"):
    arguments = ["fit", "--onnx", str(shop / file), *INPUT, "--models", str(shop / "models")]
    arguments += ["--data", str(shop / "photos"), "--name", "sorter", *more]
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def bundle(shop: Path) -> Path:
    result = fit(shop)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return Path(result.stdout.splitlines()[-1])


def pixels_of(shop: Path) -> np.ndarray:
    files = sorted((shop / "photos").rglob("*.png"))[::40]
    return np.stack([np.asarray(Image.open(file))[..., None] for file in files])


def test_tensors_of_every_resolution_are_tapped(bundle: Path) -> None:
    taps = read_manifest(bundle).provenance.config["backbone_options"]["taps"]  # type: ignore
    assert len(taps) == 3
    layers = [d.name for d in read_manifest(bundle).detectors if d.cost == "layers"]
    assert {f"mahalanobis_{tap}" for tap in taps} <= set(layers)


def test_the_given_graph_answers_as_before(shop: Path, bundle: Path) -> None:
    pixels = pixels_of(shop)
    images = ((pixels.transpose(0, 3, 1, 2) / 255 - MEAN) / STD).astype(np.float32)
    session = onnxruntime.InferenceSession(shop / "sorter.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(["y"], {"x": images})
    given = open_network(bundle / FORWARD)(pixels)
    assert relative_gap(np.asarray(expected), given["logits"]) < 1e-4


def test_appended_scores_are_those_of_torch(shop: Path, bundle: Path) -> None:
    pixels = pixels_of(shop)
    expected = torch_network(load_scorers(bundle).forward)(pixels)
    given = open_network(bundle / FORWARD)(pixels)
    assert set(expected) == set(given)
    assert len(expected) > 10
    for name, values in expected.items():
        assert relative_gap(values, given[name]) < 1e-4, name


def test_one_file_needs_no_other_graph(bundle: Path) -> None:
    model = onnx.load(bundle / FORWARD, load_external_data=False)
    assert [value.name for value in model.graph.input] == ["pixels"]
    assert model.graph.output[0].name == "logits"


def test_a_softmax_behind_the_logits_is_taken_off(shop: Path) -> None:
    plain = OnnxModel(1, 10, file=str(shop / "sorter.onnx"))
    behind = OnnxModel(1, 10, file=str(shop / "softmax.onnx"))
    assert (plain.head.weight == behind.head.weight).all()


@pytest.mark.parametrize("detectors", ["odin", "mc_dropout"])
def test_there_are_no_gradients_here(shop: Path, detectors: str) -> None:
    result = fit(shop, "--detectors", f"msp,{detectors}", "--name", "refused")
    assert result.exit_code == 1
    assert "need input gradients" in str(result.exception)
    assert not (shop / "models" / "refused").exists()


def test_a_fixed_batch_is_refused(shop: Path, tmp_path: Path) -> None:
    model = onnx.load(shop / "sorter.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    shutil.copy(tmp_path / "one.onnx", shop / "one.onnx")
    result = fit(shop, file="one.onnx")
    assert "dynamic first dimension" in str(result.exception)
