"""Runs that shape the latent space, from a config file to a bundle that the service serves."""

import io
from pathlib import Path

import numpy as np
import pytest
from live_server import live_server
from toy import digits, write_digits

from service.bundle import (
    FORWARD,
    read_calibration,
    read_calibration_classes,
    read_manifest,
    threshold_at,
    verify_files,
)
from training.config import load_config
from training.evaluation.report import read_report
from training.export import open_network, relative_gap
from training.fitting import torch_network
from training.pipeline import run
from training.restore import load_scorers

BASE = """
name = "NAME"
description = "scikit-learn's digits"
backbone = "lenet"
primary = "msp"
thresholds_by_class = true
[input]
height = 28
width = 28
channels = 1
mean = [0.3]
std = [0.35]
[optimiser]
name = "adam"
lr = 0.001
epochs = 2
batch_size = 60
BATCHES
[data]
dev_count = 100
cal_count = 300
train = [{ source = "npz", path = "FOLDER/train.npz" }]
test = [{ source = "npz", path = "FOLDER/test.npz" }]
[data.test_ood]
gaussian = [{ source = "noise", kind = "gaussian", count = 200 }]
[[detectors]]
name = "msp"
"""
EXPOSED = """
[objective]
name = "binary_head"
options = { head = "mlp", hidden = 32 }
weights = { binary = 1.0, bottleneck = 0.01 }
outlier_fraction = 0.25
[outliers]
count = 150
[outliers.sources]
noise = [{ source = "noise", kind = "uniform", count = 200, seed = 5 }]
[[detectors]]
name = "binary_head"
[[detectors]]
name = "overall_density"
[[detectors]]
name = "kde_all"
"""
VMDLS = """
[objective]
name = "vmdls"
weights = { kl = 0.2 }
[backbone_options]
latent_dim = 8
[[detectors]]
name = "vmdls_b"
[[detectors]]
name = "vmdls"
options = { epochs = 1, maps = 4 }
"""


def publish(folder: Path, name: str, sections: str, batches: str = "") -> Path:
    write_digits(folder)
    text = BASE.replace("NAME", name).replace("FOLDER", str(folder)).replace("BATCHES", batches)
    (folder / "run.toml").write_text(text + sections)
    return run(load_config(folder / "run.toml"), folder / "models", folder / "runs").path


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("exposed"), "exposed", EXPOSED)


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent")
    return publish(folder, "latent", VMDLS, "classes_per_batch = 10")


@pytest.fixture(params=["exposed", "latent"])
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_saved_state_and_graphs_give_the_same_scores(bundle: Path) -> None:
    verify_files(bundle, read_manifest(bundle))
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), dtype=np.uint8)
    pixels = np.concatenate([digits()[0][1300:1344], noise])
    scorers = load_scorers(bundle)
    parts = {FORWARD: scorers.forward} | {side.detector.graph: side for side in scorers.sides}
    for graph, part in parts.items():
        network = open_network(bundle / graph)
        for name, wanted in torch_network(part)(pixels).items():
            assert relative_gap(wanted, network(pixels)[name]) < 1e-4, name


def test_the_service_answers_with_the_detectors_of_the_objective(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    images = digits()[0][1300:1306]
    body = io.BytesIO()
    np.save(body, images)
    names = [spec.name for spec in manifest.detectors]
    with live_server(bundle.parents[1]) as server:
        answer = server.client.post(
            "/score",
            params={"detectors": ",".join(names)},
            content=body.getvalue(),
            headers={"Content-Type": "application/x-npy"},
        ).json()
    scores, classes = read_calibration(bundle, manifest), read_calibration_classes(bundle, manifest)
    assert classes is not None
    for spec in manifest.detectors:
        outputs = open_network(bundle / spec.graph)(images)[spec.output]
        for result, expected in zip(answer["results"], outputs, strict=True):
            served = result["detectors"][spec.name]
            assert served["score"] == pytest.approx(float(expected), rel=1e-4, abs=1e-4)
            label = result["label_index"]
            own = scores[spec.name][classes[spec.name] == label]
            wanted = threshold_at(own if len(own) >= 19 else scores[spec.name], 0.95)
            assert served["threshold"] == pytest.approx(wanted)
            assert served["decision"] == ("OOD" if served["score"] > wanted else "ID")


def test_the_head_tells_noise_of_another_kind_from_digits(exposed: Path) -> None:
    report = read_report(exposed / "report.json")
    row = report.row("gaussian", "binary_head")
    assert row is not None
    assert row.metrics.auroc > 0.95
    assert report.counts["outliers"] == 150
    assert any("150 outliers, 25% of every step" in remark for remark in report.remarks)
    manifest = read_manifest(exposed)
    assert "uniform noise, seed 5" in manifest.provenance.data["outliers"]
    assert manifest.provenance.config["objective"]["name"] == "binary_head"  # type: ignore[index]


def test_the_latent_layer_is_the_penultimate_one(latent: Path) -> None:
    scorers = load_scorers(latent)
    assert scorers.classifier.penultimate == "mu"
    assert scorers.classifier.head.in_features == 8
    report = read_report(latent / "report.json")
    for detector in ("vmdls_b", "vmdls"):
        row = report.row("gaussian", detector)
        assert row is not None
        assert row.metrics.auroc > 0.95
