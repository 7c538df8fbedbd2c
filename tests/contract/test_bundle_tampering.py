"""A bundle that was touched is refused, and the error names the file."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import CALIBRATION_SIZE, write_perturbed_graph

from service.bundle import (
    CALIBRATION,
    FORWARD,
    GOLDEN,
    MANIFEST,
    BundleCorrupt,
    BundleError,
    BundleIncomplete,
    BundleRef,
    BundleUnsupported,
    Golden,
    GoldenMismatch,
    ManifestInvalid,
    find_bundles,
    read_calibration,
    read_golden,
    read_manifest,
    sha256_of,
    write_calibration,
    write_golden,
)
from service.repository import LoadedBundle, SessionOptions, open_bundle

FILES = (MANIFEST, FORWARD, CALIBRATION, GOLDEN, "perturbed-odin.onnx", "report.html")


@pytest.fixture
def ref(models_dir: Path, tmp_path: Path) -> BundleRef:
    """A private copy of other/1."""
    shutil.copytree(models_dir / "other", tmp_path / "other")
    return BundleRef("other", 1, tmp_path / "other" / "1")


def load(ref: BundleRef) -> LoadedBundle:
    return open_bundle(ref, SessionOptions(provider="cpu"))


def refused(ref: BundleRef, kind: type[BundleError], file: str, message: str | None = None) -> None:
    with pytest.raises(kind, match=message) as caught:
        load(ref)
    assert caught.value.path == ref.path / file
    assert str(ref.path / file) in str(caught.value)


def edit(ref: BundleRef, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as JSON."""
    path = ref.path / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def sign(ref: BundleRef, file: str) -> None:
    """Bring the manifest's digest of a file up to date, as a careful forger would."""
    edit(ref, lambda manifest: manifest["files"].update({file: sha256_of(ref.path / file)}))


def test_the_untouched_copy_is_served(ref: BundleRef) -> None:
    assert load(ref).version == "1"
    assert {file.name for file in ref.path.iterdir()} == set(FILES)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_byte(ref: BundleRef, file: str, where: float) -> None:
    path = ref.path / file
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0xFF
    path.write_bytes(data)
    refused(ref, ManifestInvalid if file == MANIFEST else BundleCorrupt, file)


@pytest.mark.parametrize("mask", [0x01, 0x02, 0x20, 0x80])
def test_any_flipped_bit_of_the_manifest(ref: BundleRef, mask: int) -> None:
    """Also where the text stays valid JSON: in names, digits and free text."""
    path = ref.path / MANIFEST
    whole = path.read_bytes()
    for where in range(0, len(whole), 7):
        data = bytearray(whole)
        data[where] ^= mask
        path.write_bytes(data)
        with pytest.raises(BundleError, match=re.escape(str(ref.path))):
            load(ref)


def test_a_copy_under_another_version_is_a_good_bundle(ref: BundleRef) -> None:
    edit(ref, lambda manifest: manifest.update(version="7"))
    seventh = ref.path.with_name("7")
    ref.path.rename(seventh)
    assert load(BundleRef(ref.name, 7, seventh)).version == "7"


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a": 1, "a": 2}', b"[]", b'{"schema_version": true}', b""],
    ids=["nested", "repeated key", "list", "bool version", "empty"],
)
def test_what_is_no_manifest(ref: BundleRef, content: bytes) -> None:
    (ref.path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=MANIFEST):
        load(ref)


def test_an_array_where_an_archive_belongs(ref: BundleRef) -> None:
    for file in (CALIBRATION, GOLDEN):
        kept = (ref.path / file).read_bytes()
        with (ref.path / file).open("wb") as stream:
            np.save(stream, np.zeros(3, np.float32))
        sign(ref, file)
        refused(ref, BundleCorrupt, file, "archive")
        (ref.path / file).write_bytes(kept)
        sign(ref, file)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(ref: BundleRef, file: str) -> None:
    (ref.path / file).unlink()
    refused(ref, BundleIncomplete, file)


@pytest.mark.parametrize("file", ["notes.txt", "plots/a.png", ".hidden"])
def test_an_extra_file(ref: BundleRef, file: str) -> None:
    (ref.path / file).parent.mkdir(exist_ok=True)
    (ref.path / file).write_text("x")
    refused(ref, BundleIncomplete, file, "not named")


def test_a_link_out_of_the_bundle(ref: BundleRef, tmp_path: Path) -> None:
    shutil.move(ref.path / GOLDEN, tmp_path / "outside.npz")
    (ref.path / GOLDEN).symlink_to(tmp_path / "outside.npz")
    refused(ref, BundleIncomplete, GOLDEN)


MANIFEST_EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown field": (lambda m: m.update(colour="red"), "colour"),
    "unknown detector field": (lambda m: m["detectors"][0].update(colour="red"), "colour"),
    "nan threshold": (lambda m: m["detectors"][0].update(threshold=float("nan")), "threshold"),
    "infinite threshold": (lambda m: m["detectors"][0].update(threshold=1e999), "threshold"),
    "threshold as text": (lambda m: m["detectors"][0].update(threshold="1"), "threshold"),
    "other threshold": (lambda m: m["detectors"][0].update(threshold=0.5), "threshold"),
    "other acceptance": (lambda m: m["detectors"][0].update(id_acceptance=0.5), "threshold"),
    "primary unknown": (lambda m: m["policy"].update(primary="nope"), "primary"),
    "detector twice": (lambda m: m["detectors"].append(m["detectors"][0]), "repeat"),
    "graph not listed": (lambda m: m["detectors"][0].update(graph="x.onnx"), "x.onnx"),
    "path out": (lambda m: m["files"].update({"../x": "0" * 64}), "files"),
    "no classes": (lambda m: m.update(class_names=[]), "class_names"),
    "other name": (lambda m: m.update(name="tiny"), "lies in"),
    "other version": (lambda m: m.update(version="2"), "lies in"),
    "missing field": (lambda m: m.pop("policy"), "policy"),
}


@pytest.mark.parametrize("name", MANIFEST_EDITS)
def test_an_edited_manifest(ref: BundleRef, name: str) -> None:
    change, message = MANIFEST_EDITS[name]
    edit(ref, change)
    refused(ref, ManifestInvalid, MANIFEST, message)


def test_another_schema_version(ref: BundleRef) -> None:
    edit(ref, lambda manifest: manifest.update(schema_version=2))
    refused(ref, BundleUnsupported, MANIFEST, "schema_version 2")


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
def test_a_manifest_that_is_no_object(ref: BundleRef, text: str) -> None:
    (ref.path / MANIFEST).write_text(text)
    refused(ref, ManifestInvalid, MANIFEST)


@pytest.mark.parametrize("output", ["logits", "score/energy", "score/odin"])
def test_signed_golden_outputs_that_are_off(ref: BundleRef, output: str) -> None:
    golden = read_golden(ref.path, read_manifest(ref.path))
    changed = golden.outputs | {output: golden.outputs[output] + np.float32(0.01)}
    write_golden(ref.path, Golden(golden.inputs, changed))
    sign(ref, GOLDEN)
    refused(ref, GoldenMismatch, GOLDEN, output)


def test_signed_golden_output_that_is_nan(ref: BundleRef) -> None:
    golden = read_golden(ref.path, read_manifest(ref.path))
    nan = np.full_like(golden.outputs["score/msp"], np.nan)
    write_golden(ref.path, Golden(golden.inputs, golden.outputs | {"score/msp": nan}))
    sign(ref, GOLDEN)
    refused(ref, BundleCorrupt, GOLDEN, "finite")


def test_signed_golden_file_without_an_output(ref: BundleRef) -> None:
    golden = read_golden(ref.path, read_manifest(ref.path))
    golden.outputs.pop("score/odin")
    write_golden(ref.path, golden)
    sign(ref, GOLDEN)
    refused(ref, BundleCorrupt, GOLDEN, "score/odin")


CALIBRATION_EDITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unsorted": lambda scores: scores[::-1],
    "nan": lambda scores: np.append(scores[:-1], np.float32(np.nan)),
    "infinite": lambda scores: np.append(scores[:-1], np.float32(np.inf)),
    "shorter": lambda scores: scores[1:],
    "float64": lambda scores: scores.astype(np.float64),
}


@pytest.mark.parametrize("name", CALIBRATION_EDITS)
def test_signed_calibration_that_cannot_be(ref: BundleRef, name: str) -> None:
    scores = read_calibration(ref.path, read_manifest(ref.path))
    write_calibration(ref.path, scores | {"msp": CALIBRATION_EDITS[name](scores["msp"])})
    sign(ref, CALIBRATION)
    refused(ref, BundleCorrupt, CALIBRATION, "msp")


def test_signed_calibration_of_another_model(ref: BundleRef) -> None:
    scores = read_calibration(ref.path, read_manifest(ref.path))
    write_calibration(ref.path, {name: values + 1 for name, values in scores.items()})
    sign(ref, CALIBRATION)
    refused(ref, ManifestInvalid, MANIFEST, "calibration scores give")


def test_signed_calibration_without_a_detector(ref: BundleRef) -> None:
    scores = read_calibration(ref.path, read_manifest(ref.path))
    scores.pop("msp")
    write_calibration(ref.path, scores)
    sign(ref, CALIBRATION)
    refused(ref, BundleCorrupt, CALIBRATION)


@pytest.mark.parametrize("file", [CALIBRATION, GOLDEN])
@pytest.mark.parametrize("where", [0.1, 0.3, 0.5])
def test_signed_damage_inside_an_archive(ref: BundleRef, file: str, where: float) -> None:
    path = ref.path / file
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 0xFF
    path.write_bytes(data)
    sign(ref, file)
    with pytest.raises(BundleError):
        load(ref)


def test_signed_pickle_is_never_loaded(ref: BundleRef) -> None:
    np.savez(ref.path / CALIBRATION, msp=np.array([{}], dtype=object))
    sign(ref, CALIBRATION)
    refused(ref, BundleCorrupt, CALIBRATION)


def test_signed_graph_that_is_none(ref: BundleRef) -> None:
    (ref.path / FORWARD).write_bytes(b"not a graph")
    sign(ref, FORWARD)
    refused(ref, BundleCorrupt, FORWARD)


def test_signed_graph_without_an_output(ref: BundleRef) -> None:
    write_perturbed_graph(ref.path / FORWARD)
    sign(ref, FORWARD)
    refused(ref, BundleCorrupt, FORWARD, "no output")


def test_a_graph_of_another_size(ref: BundleRef) -> None:
    edit(ref, lambda manifest: manifest["input"].update(height=9))
    golden = read_golden(ref.path, read_manifest(ref.path).model_copy(update={"input": _size_8()}))
    taller = np.zeros((len(golden.inputs), 9, 8, 1), np.uint8)
    write_golden(ref.path, Golden(taller, golden.outputs))
    sign(ref, GOLDEN)
    refused(ref, BundleCorrupt, FORWARD, "expected")


def _size_8() -> Any:
    from service.bundle import ImageInput

    return ImageInput(height=8, width=8, channels=1, mean=(0.0,), std=(1.0,))


def test_half_written_folders_are_not_looked_at(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir, tmp_path / "m")
    (tmp_path / "m" / ".tmp-x" / "1").mkdir(parents=True)
    (tmp_path / "m" / "tiny" / ".tmp-3").mkdir()
    (tmp_path / "m" / "tiny" / "latest").mkdir()
    found = [(ref.name, ref.version) for ref in find_bundles(tmp_path / "m")]
    assert found == [("other", "1"), ("tiny", "1"), ("tiny", "2")]


def test_the_smallest_calibration_keeps_its_promise(ref: BundleRef) -> None:
    for spec in load(ref).manifest.detectors:
        scores = read_calibration(ref.path, read_manifest(ref.path))[spec.name]
        assert len(scores) == CALIBRATION_SIZE
        assert (scores <= spec.threshold).mean() >= spec.id_acceptance
