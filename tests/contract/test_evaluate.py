"""oodscore-train evaluate on a bundle it did not make up: from the command to the report."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from toy import digits
from typer.testing import CliRunner

from service.bundle import (
    FORWARD,
    BundleCorrupt,
    read_manifest,
    verify_files,
)
from training.cli import app, main
from training.config import RunConfig, load_config
from training.data import DataUnavailable
from training.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from training.evaluate import (
    Bundle,
    evaluate_corruptions,
    evaluate_sets,
    open_bundle,
)
from training.evaluation.corruption import ACCURACY, CorruptionReport, read_corruption_report
from training.evaluation.records import Report
from training.evaluation.report import read_report
from training.export import open_network
from training.pipeline import run

CONFIG = """
name = "digits"
description = "scikit-learn's digits"
backbone = "lenet"
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
dev_count = 100
cal_count = 200
train = [{ source = "npz", path = "FOLDER/train.npz" }]
test = [{ source = "npz", path = "FOLDER/test.npz" }]
[data.test_ood]
noise = [{ source = "noise", kind = "uniform", count = 100 }]
[[detectors]]
name = "msp"
[[detectors]]
name = "energy"
[[combiners]]
name = "combined"
members = ["energy", "msp"]
"""
ROOT = Path(__file__).parents[2]
TEST = slice(1300, 1450)
SPECKLES = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (30, 28, 28))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 training and 150 test digits."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = digits()
    names = np.array([str(digit) for digit in range(10)])
    for part, taken in {"train": slice(900), "test": TEST}.items():
        np.savez(
            folder / f"{part}.npz", images=images[taken], labels=labels[taken], class_names=names
        )
    return folder


@pytest.fixture(scope="module")
def published(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = data / "digits.toml"
    path.write_text(CONFIG.replace("FOLDER", str(data)))
    return run(load_config(path), tmp_path_factory.mktemp("models"), data / "runs").path


@pytest.fixture(scope="module")
def report(published: Path, tmp_path_factory: pytest.TempPathFactory) -> CorruptionReport:
    """Through the command, with every test image."""
    out = tmp_path_factory.mktemp("out")
    done = CliRunner().invoke(app, ["evaluate", str(published), "--corruptions", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(out / "report.html")
    for expected in ("accuracy", "combined", "severity 5"):
        assert expected in done.stdout
    assert (out / "report.html").read_text().count("data:image/png;base64,") == 2
    return read_corruption_report(out / "report.json")


def test_every_cell_is_measured_and_the_bundle_untouched(
    report: CorruptionReport, published: Path
) -> None:
    manifest = read_manifest(published)
    assert report.bundle == "digits/1"
    assert report.primary == "combined"
    assert report.kinds == tuple(CORRUPTIONS)
    assert set(report.detectors) == {spec.name for spec in manifest.detectors}
    assert report.counts == dict.fromkeys([ACCURACY, *report.detectors], 150)
    verify_files(published, manifest)


@pytest.mark.parametrize(
    ("kind", "severity"), [("contrast", 5), ("brightness", 2), ("jpeg_compression", 3)]
)
def test_a_cell_is_what_the_graph_says(
    report: CorruptionReport, published: Path, kind: str, severity: int
) -> None:
    """Kinds without chance, so the order of the images does not matter."""
    images, labels = (part[TEST] for part in digits())
    network = open_network(published / FORWARD)
    clean, worse = network(images), network(corrupt(images, kind, severity))
    cell = report.at(kind, severity)
    assert cell.accuracy == pytest.approx((worse["logits"].argmax(1) == labels).mean())
    truth = np.repeat([0, 1], len(images))
    for detector in report.detectors:
        both = np.concatenate([clean[f"score/{detector}"], worse[f"score/{detector}"]])
        assert cell.auroc[detector] == pytest.approx(roc_auc_score(truth, both), abs=1e-6)


def test_the_clean_accuracy_is_the_runs(report: CorruptionReport, published: Path) -> None:
    assert report.clean_accuracy == pytest.approx(
        read_report(published / "report.json").test_accuracy
    )
    worst = report.spreads[ACCURACY][4]
    assert worst.mean < report.clean_accuracy


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longest and is tested elsewhere."""
    monkeypatch.setattr("training.evaluate.write_corruption_report", lambda *_: [])


@pytest.mark.usefixtures("unwritten")
def test_fewer_images_are_the_same_draw_every_time(published: Path, tmp_path: Path) -> None:
    bundle = open_bundle(published)
    first = evaluate_corruptions(bundle, tmp_path / "a", limit=10)
    assert first.counts[ACCURACY] == 10
    again = evaluate_corruptions(bundle, tmp_path / "b", limit=10)
    assert again == first


def test_graphs_beside_the_forward_one_see_fewer_images(models_dir: Path, published: Path) -> None:
    config = open_bundle(published).config.model_copy(update={"several_passes_limit": 20})
    opened = Bundle(
        models_dir / "other" / "1",
        read_manifest(models_dir / "other" / "1"),
        config,
        {
            graph: open_network(models_dir / "other" / "1" / graph)
            for graph in (FORWARD, "perturbed-odin.onnx")
        },
    )
    found = opened.outputs(np.zeros((300, 8, 8, 1), np.uint8))
    assert {name: len(values) for name, values in found.items()} == {
        **{"logits": 300, "msp": 300, "energy": 300, "combined": 300},
        "odin": 20,
    }


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("again")


@pytest.fixture(scope="module")
def measured_again(published: Path, again: Path) -> Report:
    """Through the command, with a folder of black and white noise as a further set."""
    root = again
    (root / "speckles").mkdir()
    for i, pixels in enumerate(SPECKLES):
        Image.fromarray(pixels).save(root / "speckles" / f"{i}.png")
    out = root / "out"
    arguments = ["--ood", f"speckles={root / 'speckles'}", "--out", str(out)]
    done = CliRunner().invoke(app, ["evaluate", str(published), *arguments])
    assert done.exit_code == 0, done.output
    assert "speckles" in done.stdout
    assert (out / "report.html").is_file()
    return read_report(out / "report.json")


def test_the_runs_report_is_found_again(measured_again: Report, published: Path) -> None:
    before = read_report(published / "report.json")
    assert measured_again.test_accuracy == pytest.approx(before.test_accuracy)
    for row in before.rows:
        again = measured_again.row(row.ood_set, row.detector)
        assert again is not None
        assert again.metrics.auroc == pytest.approx(row.metrics.auroc, abs=1e-6)
        assert again.metrics.threshold == row.metrics.threshold
    *remarks, shows = measured_again.remarks
    assert tuple(remarks) == before.remarks  # the data are the same
    assert "mind their licence" in shows


def test_a_folder_becomes_a_further_set(measured_again: Report, published: Path) -> None:
    network = open_network(published / FORWARD)
    both = [network(images) for images in (digits()[0][TEST], SPECKLES[..., None])]
    truth = np.repeat([0, 1], [150, 30])
    for detector in ("msp", "energy", "combined"):
        row = measured_again.row("speckles", detector)
        assert row is not None
        assert row.metrics.ood_count == 30
        scores = np.concatenate([outputs[f"score/{detector}"] for outputs in both])
        assert row.metrics.auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)


@pytest.mark.usefixtures("measured_again")
def test_the_worst_mistakes_are_listed_and_shown(again: Path, published: Path) -> None:
    """Against the graph and a plain sort."""
    lines = (again / "out" / "mistakes.jsonl").read_text().splitlines()
    listed = [json.loads(line) for line in lines]
    threshold = read_manifest(published).detector("combined").threshold
    network = open_network(published / FORWARD)
    images, labels = (part[TEST] for part in digits())
    outputs = network(images)
    alarms = [one for one in listed if one["kind"] == "false_alarm"]
    order = np.argsort(-outputs["score/combined"], kind="stable")
    wrong = [int(i) for i in order if outputs["score/combined"][i] > threshold]
    assert [one["position"] for one in alarms] == wrong
    assert [one["label"] for one in alarms] == [str(labels[i]) for i in wrong]
    assert [one["predicted"] for one in alarms] == [
        str(outputs["logits"][i].argmax()) for i in wrong
    ]
    accepts = [one for one in listed if one["set"] == "speckles"]
    files = sorted((again / "speckles").iterdir())
    scores = network(np.stack([np.asarray(Image.open(file)) for file in files])[..., None])
    accepted = scores["score/combined"] <= threshold
    assert {one["file"] for one in accepts} == {
        str(file) for file, wrongly in zip(files, accepted, strict=True) if wrongly
    }
    assert [one["score"] for one in accepts] == sorted(one["score"] for one in accepts)
    page = (again / "out" / "report.html").read_text()
    assert f'test_id</th><td class="text">ID rejected</td><td>{len(wrong)} of 150</td>' in page
    with Image.open(again / "out" / "plots" / "mistakes.png") as sheet:
        assert sheet.width > 1000


@pytest.mark.usefixtures("unwritten")
def test_other_test_data_are_remarked_on(published: Path, data: Path, tmp_path: Path) -> None:
    """The same images in another order are other data as far as a digest can tell."""
    kept = tmp_path / "kept.npz"
    shutil.copy(data / "test.npz", kept)
    try:
        with np.load(kept) as archive:
            parts = dict(archive)
        turned = {name: parts[name][::-1] for name in ("images", "labels")}
        np.savez(data / "test.npz", allow_pickle=False, **(parts | turned))
        report = evaluate_corruptions(open_bundle(published), tmp_path / "out", limit=10)
        assert any("test_id is not what the bundle was reported on" in r for r in report.remarks)
        parts["class_names"] = parts["class_names"][::-1]
        np.savez(data / "test.npz", allow_pickle=False, **parts)
        with pytest.raises(ValueError, match="a label would mean two things"):
            evaluate_corruptions(open_bundle(published), tmp_path / "out", limit=10)
        (data / "test.npz").unlink()
        with pytest.raises(DataUnavailable, match=r"test_id.*no file.*test\.npz"):
            evaluate_corruptions(open_bundle(published), tmp_path / "out", limit=10)
    finally:
        shutil.copy(kept, data / "test.npz")


def test_a_bundle_that_cannot_be_measured_is_refused_with_the_reason(
    published: Path, models_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such bundle folder.*<version>"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds versions of a bundle.*digits.1"):
        open_bundle(published.parent)
    with pytest.raises(ValueError, match="no run config"):
        open_bundle(models_dir / "tiny" / "1")
    damaged = tmp_path / "digits" / "1"
    shutil.copytree(published, damaged)
    (damaged / FORWARD).write_bytes((damaged / FORWARD).read_bytes()[:-1] + b"x")
    with pytest.raises(BundleCorrupt):
        open_bundle(damaged)


def test_nothing_is_written_into_a_bundle(published: Path) -> None:
    bundle = open_bundle(published)
    with pytest.raises(ValueError, match="inside the bundle"):
        evaluate_corruptions(bundle, published / "corruptions", limit=10)
    with pytest.raises(ValueError, match="inside the bundle"):
        evaluate_sets(bundle, {}, published)


@pytest.mark.parametrize("command", ["evaluate", "advise"])
def test_a_place_that_is_no_folder_is_refused_before_the_work(
    published: Path, tmp_path: Path, command: str
) -> None:
    taken = tmp_path / "taken.txt"
    taken.write_text("a note")
    done = CliRunner().invoke(app, [command, str(published), "--out", str(taken / "report")])
    assert done.exit_code == 2
    assert "is no folder" in " ".join(done.stderr.replace("\u2502", "").split())
    assert taken.read_text() == "a note"


def test_a_taken_name_and_an_absent_folder_are_refused(published: Path, tmp_path: Path) -> None:
    bundle = open_bundle(published)
    with pytest.raises(ValueError, match=r"already has.*noise"):
        evaluate_sets(bundle, {"noise": str(tmp_path)}, tmp_path / "out")
    with pytest.raises(DataUnavailable, match="absent: there is no such folder or file"):
        evaluate_sets(bundle, {"mine": str(tmp_path / "absent")}, tmp_path / "out")
    (tmp_path / "notes.txt").write_text("no pictures")
    with pytest.raises(ValueError, match=r"notes\.txt: choose a folder, a file of \.csv"):
        evaluate_sets(bundle, {"mine": str(tmp_path / "notes.txt")}, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--corruptions", "--ood", "a=b"], "--ood"),
        (["--limit", "5"], "--limit"),
        (["--corruptions", "--limit", "0"], "--limit"),
        (["--ood", "nameless"], "NAME=FOLDER"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(options: list[str], named: str) -> None:
    done = CliRunner().invoke(app, ["evaluate", "models/none/1", *options])
    assert done.exit_code == 2
    assert named in done.output


def test_a_refusal_ends_the_command_with_one_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["oodscore-train", "evaluate", "models/none/1"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "models/none/1: no such bundle folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("OODSCORE_DATA"),
    reason="OODSCORE_DATA is not set; the real-data suite runs where it is",
)
def test_the_shipped_bundle_notices_worse_images(tmp_path: Path) -> None:
    """Facts that hold for any sound detector: stronger corruption, less accuracy, more alarm."""
    bundle = open_bundle(ROOT / "models" / "fashion-mnist" / "2")
    assert isinstance(bundle.config, RunConfig)
    try:
        report = evaluate_corruptions(bundle, tmp_path, limit=300)
    except DataUnavailable as exc:
        pytest.skip(str(exc))
    assert not any("reported on" in remark for remark in report.remarks)
    # 92.4 % in the bundle's report, less four standard errors of 300 images
    assert report.clean_accuracy > 0.86
    accuracy = [spread.mean for spread in report.spreads[ACCURACY]]
    assert accuracy == sorted(accuracy, reverse=True)
    combined = [spread.mean for spread in report.spreads["combined"]]
    assert combined == sorted(combined)
    assert combined[0] > 0.6
    assert combined[-1] > 0.8
    noise = [report.at("gaussian_noise", severity).auroc["combined"] for severity in SEVERITIES]
    assert noise == sorted(noise)
    assert noise[0] > 0.5
