"""A network that cannot be fitted is refused before anything is made of it: what, and what to do.

`--list-layers` looks at the network just as `fit` does.
"""

import errno
from pathlib import Path

import pytest
import torch
from own_models import MEAN, STD, Sorter, write_exported, write_onnx, write_weights
from torch import Tensor, nn
from typer.testing import CliRunner

from training import cli
from training.backbones.graph_model import GraphModel
from training.cli import app
from training.data import DataUnavailable
from training.export.graph import export_module
from training.fit.build import FitRequest, run_config
from training.fit.networks import ImageFlags, NetworkFlags, network_of


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


class Pair(Sorter):
    """Logits, and something beside them."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(images), images


class OneLogit(Sorter):
    """For a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(24, 1)


class Unsteady(Sorter):
    """Dropout that nothing switches off."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(self.down(self.stem(images)))
        return self.answer(nn.functional.dropout(self.hidden(maps), 0.5))


class Raising(Sorter):
    def __init__(self) -> None:
        raise TypeError("not\nhere")


def request(shop: Path, network: type[Sorter], data: str, **more: dict[str, str]) -> FitRequest:
    weights = shop / f"{network.__name__}.safetensors"
    if network is not Raising:
        write_weights(network(), weights)
    images = ImageFlags(size=(28, 28), mean=(MEAN,), std=(STD,))
    flags = NetworkFlags(weights=str(weights), images=images)
    described = network_of(f"test_fit_refusals:{network.__name__}", flags)
    return FitRequest(name="refused", network=described, data=data, **more)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Pair, "Pair gives a tuple; a tensor of logits .* wrap it"),
        (OneLogit, "gives one logit, the data have 10 classes; .* the two logits 0 and x"),
        (Unsteady, "gives other logits to the same images every time: dropout .* eval"),
        (Raising, r"fails when it is called: TypeError: not \(.*test_fit_refusals\.py"),
    ],
)
def test_networks_of_another_kind(shop: Path, network: type[Sorter], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run_config(request(shop, network, "own_models:Pairs"))


def test_a_name_that_torchvision_does_not_know() -> None:
    with pytest.raises(
        ValueError, match="torchvision has no classifier 'resnet81'; near: resnet18"
    ):
        network_of("torchvision:resnet81", NetworkFlags(weights="any.pth"))


def test_an_ood_set_without_an_input_is_refused(shop: Path) -> None:
    (shop / "void").mkdir(exist_ok=True)
    asked = request(shop, Sorter, "own_models:Pairs", ood={"screens": str(shop / "void")})
    with pytest.raises(DataUnavailable, match=r"screens.*void holds no image"):
        run_config(asked)


KNOWN = ["--weights", "sorter.pth", "--size", "28", "--mean", str(MEAN), "--std", str(STD)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--id-acceptance", "1"], "1 is no share of inputs"),
        (["--classes", "twice.txt"], "names ['cat'] twice"),
        (["--classes", "latin.txt"], "is not UTF-8"),
        (["--onnx", "sorter.pt2"], "is no .onnx file"),
        ([*KNOWN, "--data", "none", "--name", "x", "--models", "twice.txt"], "is no folder"),
    ],
)
def test_wrong_usage(
    more: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("twice.txt").write_text("cat\ndog\ncat\n")
    Path("latin.txt").write_bytes("h\xf6rnchen\n".encode("latin-1"))
    network = [] if "--onnx" in more else ["own_models:Sorter"]
    result = CliRunner().invoke(app, ["fit", *network, *more])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.replace("\u2502", "").split())


def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "models/.tmp-sorter/weights.bin")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said == (
        "oodscore-train: [Errno 28] No space left on device: 'models/.tmp-sorter/weights.bin'\n"
    )


class Branching(nn.Module):
    """What it does depends on the values of its inputs."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": images * 2 if images.mean() > 0 else images}


def test_a_branch_over_values_cannot_be_exported(tmp_path: Path) -> None:
    images = {"images": torch.randn(3, 1, 4, 4)}
    said = (
        r"torch\.onnx\.export cannot make a graph .*data-dependent.* must not depend on the values"
    )
    with pytest.raises(ValueError, match=said) as refused:
        export_module(Branching(), images, tmp_path / "branching.onnx")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


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
