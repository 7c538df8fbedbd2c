"""A network that cannot be fitted is refused before anything is made of it: what, and what to do.

`--list-layers` looks at the network just as `fit` does.
"""

from pathlib import Path

import pytest
import torch
from own_models import MEAN, STD, Sorter, write_exported, write_onnx, write_weights
from torch import Tensor, nn
from typer.testing import CliRunner

from training.backbones.graph_model import GraphModel
from training.cli import app


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network as every kind of file; the second of each has a weight that is no number."""
    folder = tmp_path_factory.mktemp("shop")
    torch.manual_seed(0)
    network = Sorter().eval()
    for name in ("sorter", "broken"):
        if name == "broken":
            with torch.no_grad():
                network.body[0].weight[0, 0, 0, 0] = torch.nan
        write_weights(network, folder / f"{name}.safetensors")
        write_exported(network, folder / f"{name}.pt2")
        write_exported(network, folder / f"{name}.ts")
        write_onnx(network, folder / f"{name}.onnx")
    return folder


def listed(shop: Path, file: str, *, size: str = "28", mean: str = str(MEAN), std: str = str(STD)):
    known = {
        "safetensors": ["own_models:Sorter", "--weights", str(shop / file)],
        "onnx": ["--onnx", str(shop / file)],
    }
    given = known.get(file.partition(".")[2], [str(shop / file)])
    images = ["--size", size, "--mean", mean, "--std", std]
    return CliRunner().invoke(app, ["fit", *given, *images, "--list-layers"])


ENDINGS = ["safetensors", "pt2", "ts", "onnx"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_weights_that_are_no_numbers(shop: Path, ending: str) -> None:
    assert listed(shop, f"sorter.{ending}").exit_code == 0
    said = listed(shop, f"broken.{ending}").exception
    assert isinstance(said, ValueError)
    assert "NaN or infinite" in str(said)
    assert "weights" in str(said)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_size_the_network_does_not_run_on(shop: Path, ending: str) -> None:
    said = listed(shop, f"sorter.{ending}", size="20").exception
    assert isinstance(said, ValueError)
    assert "does not run on images of 20 x 20 pixels and 1 channels" in str(said)
    assert "--size" in str(said)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"std": "0.3,0.3"}, r"--std is \[0.3, 0.3\]; 1 positive values are expected"),
        ({"std": "0"}, r"--std is \[0.0\]; 1 positive values are expected"),
        ({"size": "0"}, "--size is 0 x 0; give positive numbers"),
    ],
)
def test_flags_that_do_not_fit(shop: Path, flags: dict[str, str], said: str) -> None:
    result = listed(shop, "sorter.ts", **flags)
    with pytest.raises(ValueError, match=said):
        raise result.exception or AssertionError(result.output)


class Averaging(nn.Module):
    """Operators whose TorchScript has arguments that go by name alone, and several overloads."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 6, 3)
        self.answer = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.maps(images)).add(1, alpha=2)
        return self.answer(maps.mean(dim=(2, 3)) + maps.sum(dim=(2, 3), dtype=torch.float32))


def test_torchscript_whose_arguments_go_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Averaging().eval()
    write_exported(network, tmp_path / "averaging.ts")
    images = torch.randn(4, 1, 28, 28)
    found = GraphModel(1, 10, file=str(tmp_path / "averaging.ts"))(images)
    torch.testing.assert_close(found.logits, network(images))
