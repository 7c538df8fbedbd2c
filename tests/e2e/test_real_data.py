"""The shipped bundle on the data it was made for.  Slow; needs OODSCORE_DATA and Debian's
dataset-fashion-mnist (or a torchvision download in data/)."""

import os
from pathlib import Path

import numpy as np
import pytest

from service.bundle import FORWARD, read_manifest
from training.config import RunConfig, load_config
from training.data import DataUnavailable, Roles, load_roles
from training.evaluation.calibration import calibration_check
from training.evaluation.metrics import auroc
from training.evaluation.report import read_report
from training.export import open_network, relative_gap
from training.fitting import SetScores, score_set, torch_network
from training.objectives import OBJECTIVES
from training.pipeline import train_and_fit
from training.restore import load_scorer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("OODSCORE_DATA"),
        reason="OODSCORE_DATA is not set; it names the folder of real data sets",
    ),
]
ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "fashion-mnist" / "2"
CONFIG = ROOT / "training" / "configs" / "fashion_mnist.toml"


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return RunConfig.model_validate(read_manifest(BUNDLE).provenance.config)


@pytest.fixture(scope="module")
def roles(config: RunConfig) -> Roles:
    try:
        return load_roles(config.data, config.form, config.seed)
    except DataUnavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def calibration(roles: Roles) -> SetScores:
    return score_set(open_network(BUNDLE / FORWARD), roles.cal_id)


@pytest.fixture(scope="module")
def test_id(roles: Roles) -> SetScores:
    return score_set(open_network(BUNDLE / FORWARD), roles.test_id)


def test_the_data_are_those_the_bundle_was_made_from(roles: Roles) -> None:
    recorded = read_manifest(BUNDLE).provenance.data
    for role in ("train_id", "dev_id", "cal_id", "test_id"):
        # "60000 images, sha256 ..., origin": the origin may be another copy of the same pixels
        assert roles.fingerprints()[role].split(", ")[:2] == recorded[role].split(", ")[:2]


def test_accuracy_is_the_reported_one(test_id: SetScores, roles: Roles) -> None:
    accuracy = float((test_id.logits.argmax(1) == roles.test_id.labels).mean())
    assert accuracy >= 0.92
    assert accuracy == pytest.approx(read_report(BUNDLE / "report.json").test_accuracy, abs=1e-3)


def test_realised_acceptance_lies_where_the_calibration_size_allows(
    calibration: SetScores, test_id: SetScores
) -> None:
    for name, scores in calibration.scores.items():
        rows = calibration_check(scores, test_id.scores[name])
        assert [row.nominal for row in rows] == [0.9, 0.95, 0.99]
        for row in rows:
            assert row.low <= row.realised <= row.high, (name, row)


def test_auroc_of_every_detector_is_the_reported_one(test_id: SetScores, roles: Roles) -> None:
    report = read_report(BUNDLE / "report.json")
    network = open_network(BUNDLE / FORWARD)
    for name, images in roles.test_ood.items():
        for detector, scores in score_set(network, images).scores.items():
            row = report.row(name, detector)
            assert row is not None
            area = auroc(test_id.scores[detector], scores)
            assert area == pytest.approx(row.metrics.auroc, abs=1e-4), (name, detector)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_torch_and_onnx_agree_on_a_thousand_images(roles: Roles, batch: int) -> None:
    """Half garments, half digits."""
    digits = roles.test_ood["mnist"].inputs[:500]
    pixels = np.concatenate([roles.test_id.inputs[:500], digits])
    expected = torch_network(load_scorer(BUNDLE))(pixels)
    network = open_network(BUNDLE / FORWARD)
    whole = network(pixels)
    parts = [network(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]
    for name, values in expected.items():
        actual = np.concatenate([part[name] for part in parts])
        assert relative_gap(values, actual) < 1e-4, name
        scale = np.maximum(np.abs(whole[name]), 1)  # relative, absolute for scores below 1
        assert (np.abs(actual - whole[name]) / scale).max() < 1e-5, name


def test_one_epoch_from_the_shipped_config_learns_and_detects(tmp_path: Path) -> None:
    config = load_config(CONFIG)
    assert config.optimiser is not None
    one_epoch = config.optimiser.model_copy(update={"epochs": 1})
    config = config.model_copy(update={"optimiser": one_epoch, "seed": 11})
    assert config.objective.name in OBJECTIVES
    roles = load_roles(config.data, config.form, config.seed)
    scorers, _ = train_and_fit(config, roles, tmp_path)
    network = torch_network(scorers.forward)
    id_scores = score_set(network, roles.test_id)
    assert (id_scores.logits.argmax(1) == roles.test_id.labels).mean() > 0.85
    ood_scores = score_set(network, roles.test_ood["mnist"])
    ensemble = "mahalanobis_ensemble"
    assert auroc(id_scores.scores[ensemble], ood_scores.scores[ensemble]) > 0.93
