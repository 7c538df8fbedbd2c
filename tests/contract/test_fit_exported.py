"""A classifier in a file of torch.export or TorchScript becomes a bundle that answers as it did."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from own_models import MEAN, STD, Sorter, trained_sorter, write_exported, write_photos
from torch import nn
from typer.testing import CliRunner

from service.bundle import FORWARD, read_manifest
from training.backbones.graph_model import GraphModel
from training.cli import app
from training.export import open_network, relative_gap

INPUT = ["--size", "28", "--mean", str(MEAN), "--std", str(STD)]


@pytest.fixture(scope="module")
def network() -> Sorter:
    return trained_sorter()


@pytest.mark.parametrize("ending", ["pt2", pytest.param("ts", marks=pytest.mark.slow)])
def test_from_the_file_to_the_bundle(ending: str, network: Sorter, tmp_path: Path) -> None:
    file = tmp_path / f"sorter.{ending}"
    write_exported(network, file)
    write_photos(tmp_path / "photos")
    more = ["--data", str(tmp_path / "photos"), "--models", str(tmp_path), "--name", "sorter"]
    chosen = ["--detectors", "energy,mahalanobis"]
    result = CliRunner().invoke(app, ["fit", str(file), *INPUT, *more, *chosen])
    assert result.exit_code == 0, result.output + repr(result.exception)
    bundle = tmp_path / "sorter" / "1"
    assert len([d for d in read_manifest(bundle).detectors if d.cost == "layers"]) > 3
    pixels = np.random.default_rng(0).integers(0, 256, (9, 28, 28, 1), dtype=np.uint8)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    with torch.no_grad():
        expected = network(images).numpy()
    assert relative_gap(expected, open_network(bundle / FORWARD)(pixels)["logits"]) < 1e-4


@pytest.mark.parametrize("ending", ["pt2", "ts"])
def test_taps_are_what_the_layers_give(ending: str, network: Sorter, tmp_path: Path) -> None:
    """In-place operators behind a tapped layer change nothing."""
    file = tmp_path / f"sorter.{ending}"
    write_exported(network, file)
    images = torch.randn(5, 1, 28, 28)
    first = GraphModel(1, 10, file=str(file)).survey(images).layers[0]
    outputs = GraphModel(1, 10, file=str(file), taps={"first": first.name})(images)
    with torch.no_grad():
        expected = network.stem[0](images)
        torch.testing.assert_close(outputs.taps["first"], expected)
        torch.testing.assert_close(outputs.logits, network(images))
        torch.testing.assert_close(
            GraphModel(1, 10, file=str(file)).head(outputs.features), outputs.logits
        )
    assert float(expected.min()) < 0


def refusal(file: Path) -> str:
    result = CliRunner().invoke(app, ["fit", str(file), *INPUT, "--list-layers"])
    assert result.exit_code == 1
    return str(result.exception)


def test_pickled_objects_are_never_loaded(network: Sorter, tmp_path: Path) -> None:
    file, changed = tmp_path / "sorter.pt2", tmp_path / "changed.pt2"
    write_exported(network, file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            new.writestr(name, content)
    assert "pickled objects" in refusal(changed)
    torch.save(network, tmp_path / "whole.pt")
    assert "is no TorchScript file" in refusal(tmp_path / "whole.pt")


def test_what_gives_no_logits_is_refused(network: Sorter, tmp_path: Path) -> None:
    file = tmp_path / "softmax.pt2"
    write_exported(nn.Sequential(network, nn.Softmax(1)).eval(), file)
    assert "made by one linear layer" in refusal(file)
    torch.export.save(torch.export.export(network, (torch.zeros(1, 1, 28, 28),)), file)
    assert "dynamic first dimension" in refusal(file)
