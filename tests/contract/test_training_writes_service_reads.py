"""One tiny run, from a config file to a bundle that the service loads and answers with."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from live_server import live_server
from toy import digits, write_digits

from service.bundle import (
    FORWARD,
    Manifest,
    p_values,
    read_calibration,
    read_golden,
    read_manifest,
    threshold_at,
    verify_files,
)
from training.config import ConfigError, ObjectiveConfig, load_config
from training.data import load_roles
from training.evaluation.report import read_report
from training.export import ParityError, check_parity, open_network, relative_gap
from training.fitting import torch_network
from training.pipeline import run
from training.restore import load_scorer, load_scorers

CONFIG = """
name = "digits"
description = "scikit-learn's digits"
backbone = "lenet"
golden_id_count = 3
several_passes_limit = 50
[input]
height = 28
width = 28
channels = 1
mean = [0.3]
std = [0.35]
[optimiser]
name = "adadelta"
lr = 1.0
epochs = 2
batch_size = 64
[data]
dev_count = 100
cal_count = 300
proxy_ood = ["jigsaw"]
train = [{ source = "npz", path = "FOLDER/train.npz" }]
test = [{ source = "npz", path = "FOLDER/test.npz" }]
[data.test_ood]
noise = [{ source = "noise", kind = "uniform", count = 200 }]
[[detectors]]
name = "msp"
[[detectors]]
name = "energy"
[[detectors]]
name = "mahalanobis"
[[detectors]]
name = "fssd"
options = { noise_count = 50 }
[[detectors]]
name = "odin"
[[detectors]]
name = "mahalanobis_perturbed"
[[combiners]]
name = "mahalanobis_perturbed_ensemble"
members = ["mahalanobis_perturbed_conv1", "mahalanobis_perturbed_conv2", "mahalanobis_perturbed"]
[[combiners]]
name = "mahalanobis_ensemble"
members = ["mahalanobis_conv1", "mahalanobis_conv2", "mahalanobis", "mahalanobis_logits"]
[[combiners]]
name = "fssd_ensemble_learnt"
members = ["fssd_conv1", "fssd_conv2", "fssd", "fssd_logits"]
weights = "learnt"
[[combiners]]
name = "combined"
members = ["energy", "mahalanobis_ensemble"]
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    path = folder / "digits.toml"
    path.write_text(CONFIG.replace("FOLDER", str(folder)))
    return path


@pytest.fixture(scope="module")
def bundle(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("models")
    published = run(load_config(config_file), repository, config_file.parent / "runs")
    assert published.path == repository / "digits" / "1"
    assert [path.name for path in repository.iterdir()] == ["digits"]  # nothing half-written
    return published.path


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


def test_the_bundle_is_whole(bundle: Path, manifest: Manifest) -> None:
    verify_files(bundle, manifest)
    assert {
        *("forward.onnx", "calibration.npz", "golden.npz", "report.json", "report.html"),
        *("checkpoint.safetensors", "fit.safetensors"),
    } <= set(manifest.files)
    assert any(name.startswith("plots/") for name in manifest.files)
    assert manifest.policy.primary == "combined"
    assert manifest.class_names == tuple("0123456789")


def test_thresholds_follow_from_the_calibration_file(bundle: Path, manifest: Manifest) -> None:
    calibration = read_calibration(bundle, manifest)
    assert len(manifest.detectors) == 20
    for spec in manifest.detectors:
        assert spec.calibration_size == (300 if spec.graph == FORWARD else 50)
        assert spec.threshold == threshold_at(calibration[spec.name], 0.95)
        low, high = spec.acceptance_interval
        assert low < 0.95 < high
        flagged = calibration[spec.name] > spec.threshold
        positions = p_values(calibration[spec.name], calibration[spec.name])
        assert (positions[flagged] <= 0.05).all()
        assert (positions[~flagged] > 0.05).all()


def test_the_predicted_labels_of_the_calibration_are_recorded(
    bundle: Path, manifest: Manifest, config_file: Path
) -> None:
    """By the graph itself, over the config's own cal-ID."""
    config = load_config(config_file)
    roles = load_roles(config.data, config.form, config.seed)
    logits = open_network(bundle / FORWARD)(roles.cal_id.batch(slice(0, 300)))["logits"]
    counted = [int((logits.argmax(axis=1) == label).sum()) for label in range(10)]
    assert manifest.label_counts == tuple(counted)
    assert sum(counted) == 300


def test_golden_outputs_are_reproduced(bundle: Path, manifest: Manifest) -> None:
    golden = read_golden(bundle, manifest)
    assert len(golden.inputs) == 3 + 4  # ID images the config allows, and noise
    graphs = {spec.graph for spec in manifest.detectors}
    assert graphs == {FORWARD, "perturbed-odin.onnx", "perturbed-mahalanobis.onnx"}
    outputs: dict[str, np.ndarray] = {}
    for graph in graphs:
        outputs |= open_network(bundle / graph)(golden.inputs)
    for name, recorded in golden.outputs.items():
        np.testing.assert_allclose(outputs[name], recorded, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_gradient_graphs_agree_with_autograd(bundle: Path, batch: int) -> None:
    """Few pixels whose gradient is almost zero may step the other way; ranks hardly notice."""
    pixels = np.concatenate([digits()[0][1300:1350], np.zeros((14, 28, 28, 1), np.uint8)])
    pixels[50:] = np.random.default_rng(0).integers(0, 256, pixels[50:].shape)
    scorers = load_scorers(bundle)
    for side in scorers.sides:
        network = open_network(bundle / side.detector.graph)
        parts = [network(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]
        for name, wanted in torch_network(side)(pixels).items():
            actual = np.concatenate([part[name] for part in parts])
            assert relative_gap(wanted, actual) < 1e-2, name
            assert np.median(np.abs(wanted - actual)) < 1e-3 * wanted.std(), name
            np.testing.assert_allclose(actual, network(pixels)[name], rtol=1e-4, atol=1e-4)


def test_the_weights_of_all_graphs_are_stored_once(bundle: Path, manifest: Manifest) -> None:
    assert "weights.bin" in manifest.files
    network = sum(f.stat().st_size for f in bundle.glob("checkpoint.safetensors"))
    graphs = sum(file.stat().st_size for file in bundle.glob("*.onnx"))
    assert graphs < 0.2 * network
    # what is neither the network's nor a fit's, and what was folded or transposed for the graph
    assert (bundle / "weights.bin").stat().st_size < 0.2 * network


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_saved_state_and_graph_give_the_same_scores(bundle: Path, batch: int) -> None:
    pixels = digits()[0][1300:1364]
    expected = torch_network(load_scorer(bundle))(pixels)
    network = open_network(bundle / FORWARD)
    parts = [network(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]
    whole = network(pixels)
    for name, values in expected.items():
        actual = np.concatenate([part[name] for part in parts])
        assert relative_gap(values, actual) < 1e-4, name
        np.testing.assert_allclose(actual, whole[name], rtol=1e-5, atol=1e-5)


def test_the_report_holds_the_measured_numbers(bundle: Path) -> None:
    report = read_report(bundle / "report.json")
    assert report.bundle == "digits/1"
    assert report.test_accuracy is not None
    assert report.test_accuracy > 0.8  # two epochs
    row = report.row("noise", "mahalanobis_ensemble")
    assert row is not None
    assert row.metrics.auroc > 0.9
    assert {s.role for s in report.ood_sets} == {"ood", "control"}
    assert json.loads((bundle / "report.json").read_text())["test_accuracy"] == report.test_accuracy


def test_a_second_run_publishes_the_next_version(
    bundle: Path, config_file: Path, manifest: Manifest
) -> None:
    again = run(load_config(config_file), bundle.parents[1], config_file.parent / "runs")
    assert again.version == "2"
    second = read_manifest(again.path)
    for first, other in zip(manifest.detectors, second.detectors, strict=True):
        assert other.threshold == pytest.approx(first.threshold, rel=1e-4, abs=1e-4), first.name
    verify_files(bundle, manifest)  # the first version is untouched


def test_the_service_answers_what_the_graph_says(bundle: Path, manifest: Manifest) -> None:
    images = digits()[0][1300:1310]
    body = io.BytesIO()
    np.save(body, images)
    with live_server(bundle.parents[1]) as server:
        answer = server.client.post(
            "/score",
            params={"model": "digits", "version": "1"},
            content=body.getvalue(),
            headers={"Content-Type": "application/x-npy"},
        ).json()
    outputs = open_network(bundle / FORWARD)(images)
    assert answer["model"] == {"name": "digits", "version": "1"}
    for index, result in enumerate(answer["results"]):
        assert result["label"] == manifest.class_names[outputs["logits"][index].argmax()]
        for spec in manifest.detectors:
            if spec.graph != FORWARD:
                assert spec.name not in result["detectors"]
                continue
            served = result["detectors"][spec.name]
            assert served["score"] == pytest.approx(
                float(outputs[spec.output][index]), rel=1e-5, abs=1e-5
            )
            assert served["decision"] == ("OOD" if served["score"] > spec.threshold else "ID")


def test_disagreement_between_torch_and_onnx_is_named() -> None:
    values = {"score/energy": np.ones(4, np.float32), "logits": np.ones((4, 2), np.float32)}
    off = values | {"score/energy": np.full(4, 1.001, np.float32)}
    with pytest.raises(ParityError, match="score/energy"):
        check_parity(values, off)
    with pytest.raises(ParityError, match="logits"):
        check_parity(values, {"score/energy": values["score/energy"]})


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('name = "digits"', 'name = "digits"\ncolour = 1', "colour"),
        ("lr = 1.0", "lr = -1.0", "optimiser.lr"),
        ("dev_count = 100", "dev_count = 3", "data.dev_count"),
        ("lr = 1.0", "lr = ", "TOML"),
        ("mean = [0.3]", "mean = [0.3, 0.3]", "input"),
    ],
)
def test_a_wrong_config_names_file_and_field(
    config_file: Path, tmp_path: Path, old: str, new: str, named: str
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text(config_file.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=rf"broken\.toml.*{named}"):
        load_config(broken)


@pytest.mark.parametrize(
    ("field", "value"), [("backbone", "lenet5"), ("objective", "hinge"), ("detectors", "msp2")]
)
def test_an_unknown_name_is_refused_with_the_choice(
    config_file: Path, tmp_path: Path, field: str, value: str
) -> None:
    config = load_config(config_file)
    if field == "detectors":
        detector = config.detectors[0].model_copy(update={"name": value})
        config = config.model_copy(update={"detectors": (detector,)})
    elif field == "objective":
        config = config.model_copy(update={"objective": ObjectiveConfig(name=value)})
    else:
        config = config.model_copy(update={field: value})
    with pytest.raises(ValueError, match=value):
        run(config, tmp_path / "models", tmp_path / "runs")
    assert not (tmp_path / "models").exists()
