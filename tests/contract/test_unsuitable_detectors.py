"""A detector that does not suit the network: refused, or said so, at every place people look."""

import re
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn
from toy import digits

from service.bundle import read_manifest
from training.config import RunConfig, load_config
from training.evaluate import evaluate_sets, open_bundle
from training.evaluation.report import read_report
from training.pipeline import run
from training.restore import load_scorers

CONFIG = """
name = "signed"
description = "scikit-learn's digits through features of either sign"
backbone = "module"
backbone_options = { factory = "test_unsuitable_detectors:SignedNet", taps = [] }
primary = "msp"
[input]
height = 28
width = 28
channels = 1
mean = [0.3]
std = [0.35]
[optimiser]
name = "adadelta"
lr = 1.0
epochs = 1
batch_size = 64
[data]
dev_count = 50
cal_count = 50
train = [{ source = "npz", path = "FOLDER/train.npz" }]
test = [{ source = "npz", path = "FOLDER/test.npz" }]
[data.test_ood]
noise = [{ source = "noise", kind = "uniform", count = 50 }]
[[detectors]]
name = "msp"
[[detectors]]
name = "react"
"""
SAID = re.compile(
    r"react: penultimate features go down to -\d\S*; the method supposes rectified ones and cuts "
    r"only large positive values\."
)


class SignedNet(nn.Module):
    """Its head reads features from -1 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 16), nn.Tanh())
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("data")
    images, labels = digits()
    names = np.array([str(digit) for digit in range(10)])
    for part, rows in {"train": slice(0, 400), "test": slice(400, 500)}.items():
        np.savez(
            folder / f"{part}.npz", images=images[rows], labels=labels[rows], class_names=names
        )
    path = folder / "signed.toml"
    path.write_text(CONFIG.replace("FOLDER", str(folder)))
    return load_config(path)


@pytest.mark.parametrize("shaping", ["ash_s", "scale"])
def test_shaping_of_signed_features_is_refused_before_the_training(
    config: RunConfig, tmp_path: Path, shaping: str
) -> None:
    values = config.model_dump() | {"detectors": [{"name": "msp"}, {"name": shaping}]}
    with pytest.raises(ValueError, match=f"{shaping}: .* needs them all zero or positive"):
        run(RunConfig.model_validate(values), tmp_path / "models", tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_a_doubtful_detector_is_said_in_the_run_and_in_every_report(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = run(config, tmp_path / "models", tmp_path / "runs").path
    (said,) = SAID.findall(re.sub(r"\s+", " ", capsys.readouterr().err))
    assert {spec.name for spec in read_manifest(published).detectors} == {"msp", "react"}
    assert said in read_report(published / "report.json").remarks
    assert said in (published / "report.html").read_text()
    assert load_scorers(published).remarks() == [said]
    again = evaluate_sets(open_bundle(published), {}, tmp_path / "evaluation")
    assert said in again.remarks
