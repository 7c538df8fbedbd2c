"""The shipped text bundle: its size, and its numbers on the data it was made for (slow; needs
OODSCORE_DATA)."""

import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from service.bundle import FORWARD, TextInput, read_manifest
from training.config import RunConfig, TextConfig
from training.data import DataUnavailable, Roles, TextLoader, load_roles
from training.evaluation.calibration import calibration_check
from training.evaluation.metrics import auroc
from training.evaluation.report import read_report
from training.export import open_network, relative_gap
from training.fitting import SetScores, score_set, torch_network
from training.restore import load_scorer

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "clinc150" / "1"
LARGEST_BYTES = 30_000_000
real_data = pytest.mark.skipif(
    not os.environ.get("OODSCORE_DATA"),
    reason="OODSCORE_DATA is not set; it names the folder of real data sets",
)


def test_the_bundle_is_small() -> None:
    size = sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file())
    assert (BUNDLE / FORWARD).is_file()
    assert size < LARGEST_BYTES


@pytest.fixture(scope="module")
def roles() -> Roles:
    manifest = read_manifest(BUNDLE)
    config = RunConfig.model_validate(manifest.provenance.config)
    assert isinstance(config.form, TextConfig)
    assert isinstance(manifest.input, TextInput)
    tokenizer = Tokenizer.from_file(str(BUNDLE / manifest.input.tokenizer))
    loader = TextLoader(config.form, (tokenizer, manifest.input))
    try:
        return load_roles(config.data, loader, config.seed)
    except DataUnavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def test_id(roles: Roles) -> SetScores:
    return score_set(open_network(BUNDLE / FORWARD), roles.test_id)


@pytest.mark.slow
@real_data
def test_the_data_are_those_the_bundle_was_made_from(roles: Roles) -> None:
    recorded = read_manifest(BUNDLE).provenance.data
    for role in ("train_id", "dev_id", "cal_id", "test_id", "test_ood/out_of_scope"):
        assert roles.fingerprints()[role].split(", ")[:2] == recorded[role].split(", ")[:2]
    assert len(roles.test_ood["out_of_scope"]) == 1000


@pytest.mark.slow
@real_data
def test_accuracy_is_the_reported_one(test_id: SetScores, roles: Roles) -> None:
    accuracy = float((test_id.logits.argmax(1) == roles.test_id.labels).mean())
    assert accuracy >= 0.95
    assert accuracy == pytest.approx(read_report(BUNDLE / "report.json").test_accuracy, abs=1e-3)


@pytest.mark.slow
@real_data
def test_auroc_of_every_detector_is_the_reported_one(test_id: SetScores, roles: Roles) -> None:
    report = read_report(BUNDLE / "report.json")
    found: dict[str, float] = {}
    outside = score_set(open_network(BUNDLE / FORWARD), roles.test_ood["out_of_scope"])
    for detector, scores in outside.scores.items():
        row = report.row("out_of_scope", detector)
        assert row is not None
        found[detector] = auroc(test_id.scores[detector], scores)
        assert found[detector] == pytest.approx(row.metrics.auroc, abs=1e-4), detector
    # the single score that the proxy outliers prefer, and what they made of several
    assert found["mahalanobis_ensemble"] >= 0.97
    assert found["combined"] >= 0.95


@pytest.mark.slow
@real_data
def test_realised_acceptance_lies_where_the_calibration_size_allows(
    test_id: SetScores, roles: Roles
) -> None:
    """Of the deciding score; of sixty, by chance, a few are further off."""
    calibration = score_set(open_network(BUNDLE / FORWARD), roles.cal_id)
    for row in calibration_check(calibration.scores["combined"], test_id.scores["combined"]):
        assert row.low <= row.realised <= row.high, row


@pytest.mark.slow
@real_data
def test_torch_and_onnx_agree(roles: Roles) -> None:
    """The network is restored from the bundle alone; batches and padding change nothing."""
    pytest.importorskip("transformers")
    tokens = roles.test_id.batch(slice(0, 200))
    network = open_network(BUNDLE / FORWARD)
    whole = network(tokens)
    for name, values in torch_network(load_scorer(BUNDLE))(tokens).items():
        assert relative_gap(values, whole[name]) < 1e-4, name
    spec = read_manifest(BUNDLE).input
    assert isinstance(spec, TextInput)
    pad = np.full((len(tokens), 5), spec.pad_id)
    padded = network(np.concatenate([tokens, pad], axis=1))
    alone = [network(tokens[index : index + 1]) for index in range(20)]
    for name, values in whole.items():
        assert relative_gap(values, padded[name]) < 1e-4, name
        assert relative_gap(values[:20], np.concatenate([a[name] for a in alone])) < 1e-4, name
