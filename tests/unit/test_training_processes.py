"""Two processes that train together end with the weights of one that trained alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import TOY_SPEC, ToyNet, noise_pixels, toy_pixels

from training.classifier import Classifier, ImageClassifier
from training.config import ObjectiveConfig, OptimiserConfig
from training.data import ImageSet
from training.objectives import OBJECTIVES
from training.optimise import Run, train
from training.processes import process_group, rank, world

RECIPE = OptimiserConfig(name="sgd", lr=0.05, epochs=2, batch_size=32, clip_norm=1.0)


def trained(name: str, folder: Path) -> Classifier:
    """288 images in batches of 32, and as many outliers beside them."""
    torch.manual_seed(5)
    network = ImageClassifier(ToyNet(), TOY_SPEC)
    pixels, labels = toy_pixels(288, seed=1)
    data = ImageSet("stripes", pixels.numpy(), labels.numpy(), tuple("abcd"), "made here")
    noise = noise_pixels(64, seed=2)
    unlabelled = torch.full((64,), -1).numpy()
    outliers = ImageSet("noise", noise.numpy(), unlabelled, (), "made here")
    objective = OBJECTIVES[name]()
    run = Run("toy", {}, ObjectiveConfig(name=name), RECIPE, 7)
    exposed = outliers if objective.reads_outliers else None
    train(network, data, objective, run, folder / f"{name}.pt", exposed)
    return network


def together(folder: Path) -> None:
    """What each of the processes does."""
    with process_group():
        for name in ("cross_entropy", "outlier_exposure", "binary_head"):
            network = trained(name, folder)
            torch.save(network.state_dict(), folder / f"{name}-rank{rank()}.pt")
        try:
            trained("parzen_repulsion", folder)
        except ValueError as exc:
            (folder / f"refused{rank()}.txt").write_text(str(exc))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    root = Path(__file__).parents[2]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *(str(Path(__file__)), str(folder)),
    ]
    paths = os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["cross_entropy", "outlier_exposure", "binary_head"])
def test_two_processes_end_with_the_weights_of_one(name: str, folder: Path, tmp_path: Path) -> None:
    alone = trained(name, tmp_path).state_dict()
    ranks = [torch.load(folder / f"{name}-rank{r}.pt", weights_only=True) for r in (0, 1)]
    for key, value in alone.items():
        torch.testing.assert_close(ranks[0][key], ranks[1][key], rtol=0, atol=0)
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-4, atol=1e-5)
    losses = torch.load(tmp_path / f"{name}.pt", weights_only=True)["losses"]
    shared = torch.load(folder / f"{name}.pt", weights_only=True)["losses"]
    assert shared == pytest.approx(losses, rel=1e-4)


def test_terms_that_compare_inputs_are_refused_there(folder: Path) -> None:
    for number in (0, 1):
        message = (folder / f"refused{number}.txt").read_text()
        assert "['repulsion'] compare the inputs of a batch" in message


def test_one_process_joins_no_group() -> None:
    with process_group():
        assert (world(), rank()) == (1, 0)


if __name__ == "__main__":
    together(Path(sys.argv[1]))
