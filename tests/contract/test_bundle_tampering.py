"""A bundle that was touched is refused, and the error names the file."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import (
    CALIBRATION_SIZE,
    FORWARD_DETECTORS,
    PASSES,
    PERTURBED,
    publish_tiny_bundle,
    write_forward_graph,
    write_perturbed_graph,
)

from service.bundle import (
    CALIBRATION,
    CALIBRATION_INT8,
    FORWARD,
    FORWARD_INT8,
    GOLDEN,
    GOLDEN_INT8,
    MANIFEST,
    WEIGHTS,
    BundleCorrupt,
    BundleError,
    BundleIncomplete,
    BundleRef,
    BundleUnsupported,
    Golden,
    GoldenMismatch,
    GoldenTolerance,
    ManifestInvalid,
    find_bundles,
    read_calibration,
    read_golden,
    read_manifest,
    sha256_of,
    write_calibration,
    write_golden,
    write_manifest,
)
from service.graphs import SessionOptions
from service.loading import LoadedBundle, check_every_graph, open_bundle
from service.onnx_session import OnnxSession

FILES = (
    *(MANIFEST, FORWARD, CALIBRATION, GOLDEN, WEIGHTS, PERTURBED, PASSES, "report.html"),
    *(FORWARD_INT8, CALIBRATION_INT8, GOLDEN_INT8),
)
OPTIONS = SessionOptions(provider="cpu", threads=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """other/1: graphs on demand, shared weights, an int8 variant.  Read only."""
    repository = tmp_path_factory.mktemp("whole")
    publish_tiny_bundle(repository, "other", "1", seed=3, everything=True)
    return repository


@pytest.fixture
def ref(whole: Path, tmp_path: Path) -> BundleRef:
    """A private copy of it."""
    shutil.copytree(whole / "other", tmp_path / "other")
    return BundleRef("other", 1, tmp_path / "other" / "1")


def load(ref: BundleRef) -> LoadedBundle:
    """What `serve` does with it at its start."""
    return open_bundle(ref, OPTIONS)


def load_all(ref: BundleRef) -> None:
    """What `oodscore models verify` does with it."""
    check_every_graph(ref, OPTIONS)


def load_int8(ref: BundleRef) -> None:
    open_bundle(ref, OPTIONS, int8=True)


Load = Callable[[BundleRef], object]


def refused(
    ref: BundleRef,
    kind: type[BundleError],
    file: str,
    message: str | None = None,
    how: Load = load,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        how(ref)
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


def sign_and_seal(ref: BundleRef, file: str) -> None:
    """A forger more careful still: every check but those of the content passes."""
    sign(ref, file)
    write_manifest(ref.path, read_manifest(ref.path))


def test_the_untouched_copy_is_served(ref: BundleRef) -> None:
    assert load(ref).version == "1"
    load_all(ref)
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
    for where in range(0, len(whole), 11):
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


def int8(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["variants"][0]


def price(manifest: dict[str, Any]) -> dict[str, Any]:
    return int8(manifest)["price"]


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
    "graph not listed": (lambda m: m["files"].pop(PERTURBED), PERTURBED),
    "cheap, but elsewhere": (lambda m: m["detectors"][0].update(graph=PERTURBED), "do not fit"),
    "costly, but forward": (lambda m: m["detectors"][3].update(graph=FORWARD), "do not fit"),
    "primary on demand": (lambda m: m["policy"].update(primary="odin"), "primary"),
    "variant twice": (lambda m: m["variants"].append(m["variants"][0]), "variants repeat"),
    "variant's graph not listed": (lambda m: m["files"].pop(FORWARD_INT8), FORWARD_INT8),
    "variant's scores not listed": (lambda m: m["files"].pop(CALIBRATION_INT8), "calibration-int8"),
    "variant's golden not listed": (lambda m: m["files"].pop(GOLDEN_INT8), GOLDEN_INT8),
    "another variant": (lambda m: int8(m).update(name="int4"), "int8"),
    "variant of another graph": (lambda m: int8(m).update(graph=FORWARD), FORWARD_INT8),
    "variant, unknown field": (lambda m: int8(m).update(colour="red"), "colour"),
    "variant, threshold left out": (lambda m: int8(m)["thresholds"].pop("msp"), "thresholds"),
    "variant, threshold too many": (lambda m: int8(m)["thresholds"].update(odin=1.0), "thresholds"),
    "variant, threshold nan": (
        lambda m: int8(m)["thresholds"].update(msp=float("nan")),
        "thresholds",
    ),
    "variant, other threshold": (
        lambda m: int8(m)["thresholds"].update(msp=0.5),
        "msp: threshold 0.5, but the calibration scores of calibration-int8.npz give",
    ),
    "variant's threshold of fp32": (
        lambda m: int8(m)["thresholds"].update(msp=m["detectors"][2]["threshold"]),
        "calibration-int8.npz",
    ),
    "price, unknown field": (lambda m: price(m).update(colour="red"), "colour"),
    "price, accuracy above 1": (lambda m: price(m).update(accuracy=1.2), "accuracy"),
    "price, accuracy left out": (lambda m: price(m).pop("accuracy_fp32"), "accuracy_fp32"),
    "price, detector left out": (lambda m: price(m)["auroc"]["grey"].pop("msp"), "auroc of grey"),
    "price, detector too many": (
        lambda m: price(m)["auroc"]["grey"].update(odin=[0.9, 0.9]),
        "auroc of grey",
    ),
    "price, one auroc of two": (lambda m: price(m)["auroc"]["grey"].update(msp=[0.9]), "auroc"),
    "price, auroc nan": (
        lambda m: price(m)["auroc"]["grey"].update(msp=[0.9, float("nan")]),
        "auroc",
    ),
    "price, no speed": (lambda m: price(m).update(speed_ratio={}), "speed_ratio"),
    "price, speed of no batch": (lambda m: price(m).update(speed_ratio={"x": 1.0}), "speed_ratio"),
    "price, no speed at all": (lambda m: price(m)["speed_ratio"].update({"1": 0.0}), "speed_ratio"),
    "price, measured nowhere": (lambda m: price(m).update(measured_on=""), "measured_on"),
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


@pytest.mark.parametrize(
    ("file", "output", "how"),
    [
        (GOLDEN, "logits", load),
        (GOLDEN, "score/energy", load),
        (GOLDEN, "score/odin", load_all),
        (GOLDEN, "score/mc_dropout", load_all),
        (GOLDEN_INT8, "logits", load_int8),
        (GOLDEN_INT8, "score/energy", load_int8),
        (GOLDEN_INT8, "score/energy", load_all),
    ],
)
def test_signed_golden_outputs_that_are_off(
    ref: BundleRef, file: str, output: str, how: Load
) -> None:
    """At the start where the graph is opened then, at verification in any case."""
    golden = read(ref, file)
    changed = golden.outputs | {output: golden.outputs[output] + np.float32(0.01)}
    write_golden(ref.path, Golden(golden.inputs, changed), file)
    sign_and_seal(ref, file)
    refused(ref, GoldenMismatch, file, output, how)


def read(ref: BundleRef, file: str) -> Golden:
    manifest = read_manifest(ref.path)
    return read_golden(ref.path, manifest, manifest.variants[0] if file == GOLDEN_INT8 else None)


def test_golden_outputs_no_graph_gives(ref: BundleRef) -> None:
    for file in (GOLDEN, GOLDEN_INT8):
        golden = read(ref, file)
        more = golden.outputs | {"score/knn": golden.outputs["score/msp"]}
        write_golden(ref.path, Golden(golden.inputs, more), file)
        sign(ref, file)
        refused(ref, BundleCorrupt, file, "score/knn")
        write_golden(ref.path, golden, file)
        sign(ref, file)


def test_the_variant_may_have_a_tolerance_of_its_own(ref: BundleRef) -> None:
    golden = read(ref, GOLDEN_INT8)
    off = {name: values + np.float32(0.01) for name, values in golden.outputs.items()}
    write_golden(ref.path, Golden(golden.inputs, off), GOLDEN_INT8)
    sign_and_seal(ref, GOLDEN_INT8)
    refused(ref, GoldenMismatch, GOLDEN_INT8, how=load_int8)
    manifest = read_manifest(ref.path)
    wider = {"golden_tolerance": GoldenTolerance(absolute=0.02, relative=0.0)}
    variant = manifest.variants[0].model_copy(update=wider)
    write_manifest(ref.path, manifest.model_copy(update={"variants": (variant,)}))
    load_int8(ref)


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


def test_signed_calibration_of_the_variant_that_is_the_plain_one(ref: BundleRef) -> None:
    scores = read_calibration(ref.path, read_manifest(ref.path))
    write_calibration(ref.path, {d: scores[d] for d in FORWARD_DETECTORS}, CALIBRATION_INT8)
    sign(ref, CALIBRATION_INT8)
    for how in (load, load_int8):
        refused(ref, ManifestInvalid, MANIFEST, CALIBRATION_INT8, how)


def test_signed_calibration_of_the_variant_with_other_detectors(ref: BundleRef) -> None:
    scores = read_calibration(ref.path, read_manifest(ref.path))
    write_calibration(ref.path, scores, CALIBRATION_INT8)
    sign(ref, CALIBRATION_INT8)
    refused(ref, BundleCorrupt, CALIBRATION_INT8, "odin")


def test_signed_calibration_of_another_model(ref: BundleRef) -> None:
    scores = read_calibration(ref.path, read_manifest(ref.path))
    write_calibration(ref.path, {name: values + 1 for name, values in scores.items()})
    sign(ref, CALIBRATION)
    refused(ref, ManifestInvalid, MANIFEST, r"scores of calibration\.npz give")


def test_signed_calibration_without_a_detector(ref: BundleRef) -> None:
    scores = read_calibration(ref.path, read_manifest(ref.path))
    scores.pop("msp")
    write_calibration(ref.path, scores)
    sign(ref, CALIBRATION)
    refused(ref, BundleCorrupt, CALIBRATION)


@pytest.mark.parametrize("file", [CALIBRATION, GOLDEN, CALIBRATION_INT8, GOLDEN_INT8])
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


GRAPHS_AND_WAYS = [
    (FORWARD, load),
    (PERTURBED, load_all),
    (PASSES, load_all),
    (FORWARD_INT8, load_int8),
    (FORWARD_INT8, load_all),
]


@pytest.mark.parametrize(("file", "how"), GRAPHS_AND_WAYS)
def test_signed_graph_that_is_none(ref: BundleRef, file: str, how: Load) -> None:
    (ref.path / file).write_bytes(b"not a graph")
    sign_and_seal(ref, file)
    refused(ref, BundleCorrupt, file, how=how)


@pytest.mark.parametrize(("file", "how"), GRAPHS_AND_WAYS)
def test_signed_graph_without_an_output(ref: BundleRef, file: str, how: Load) -> None:
    other = PASSES if file == PERTURBED else PERTURBED
    shutil.copyfile(ref.path / other, ref.path / file)
    sign_and_seal(ref, file)
    refused(ref, BundleCorrupt, file, "no output", how)


def test_the_plain_graph_in_place_of_the_variant(ref: BundleRef) -> None:
    shutil.copyfile(ref.path / FORWARD, ref.path / FORWARD_INT8)
    sign_and_seal(ref, FORWARD_INT8)
    refused(ref, GoldenMismatch, GOLDEN_INT8, how=load_int8)


WRITERS: dict[str, tuple[Callable[[Path, str], None], Load]] = {
    FORWARD: (write_forward_graph, load),
    PERTURBED: (write_perturbed_graph, load_all),
}


@pytest.fixture
def outside(ref: BundleRef) -> Path:
    """The weights, beside the bundle's folder instead of in it."""
    return Path(shutil.copyfile(ref.path / WEIGHTS, ref.path.parent / WEIGHTS))


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("location", ["../weights.bin", "x/../../weights.bin", "ABSOLUTE", ""])
def test_weights_outside_the_bundle_are_not_read(
    ref: BundleRef, outside: Path, file: str, location: str
) -> None:
    """The right bytes at a wrong place, everything signed: onnxruntime has to refuse it."""
    write, how = WRITERS[file]
    (ref.path / "x").mkdir()
    write(ref.path / file, str(outside) if location == "ABSOLUTE" else location)
    sign_and_seal(ref, file)
    refused(ref, BundleCorrupt, file, "xternal", how)


@pytest.mark.parametrize("file", WRITERS)
def test_weights_behind_a_link_out_of_the_bundle_are_not_read(
    ref: BundleRef, outside: Path, file: str
) -> None:
    """Refused as a file of the bundle, and by onnxruntime where that check came too early."""
    write, how = WRITERS[file]
    write(ref.path / file, "link.bin")
    sign_and_seal(ref, file)
    manifest = read_manifest(ref.path)
    (ref.path / "link.bin").symlink_to(outside)
    refused(ref, BundleIncomplete, "link.bin", "not named", how)
    named = manifest.files | {"link.bin": sha256_of(outside)}
    write_manifest(ref.path, manifest.model_copy(update={"files": named}))
    refused(ref, BundleIncomplete, "link.bin", how=how)
    with pytest.raises(BundleCorrupt, match="escapes"):
        OnnxSession(ref.path / file, provider="cpu", threads=1)


@pytest.mark.parametrize("file", WRITERS)
def test_weights_the_manifest_does_not_name_are_not_read(ref: BundleRef, file: str) -> None:
    write, how = WRITERS[file]
    write(ref.path / file, "more.bin")
    sign_and_seal(ref, file)
    refused(ref, BundleCorrupt, file, "more.bin", how)
    shutil.copyfile(ref.path / WEIGHTS, ref.path / "more.bin")
    refused(ref, BundleIncomplete, "more.bin", "not named", how)


def test_weights_that_end_too_early_are_not_read(ref: BundleRef) -> None:
    weights = (ref.path / WEIGHTS).read_bytes()
    (ref.path / WEIGHTS).write_bytes(weights[:-4])
    sign_and_seal(ref, WEIGHTS)
    refused(ref, BundleCorrupt, FORWARD)


def test_a_graph_of_another_size(ref: BundleRef) -> None:
    taller = {GOLDEN: read(ref, GOLDEN), GOLDEN_INT8: read(ref, GOLDEN_INT8)}
    edit(ref, lambda manifest: manifest["input"].update(height=9))
    for file, golden in taller.items():
        inputs = np.zeros((len(golden.inputs), 9, 8, 1), np.uint8)
        write_golden(ref.path, Golden(inputs, golden.outputs), file)
        sign(ref, file)
    refused(ref, BundleCorrupt, FORWARD, "expected")
    refused(ref, BundleCorrupt, FORWARD_INT8, "expected", load_int8)


def test_half_written_folders_are_not_looked_at(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir, tmp_path / "m")
    (tmp_path / "m" / ".tmp-x" / "1").mkdir(parents=True)
    (tmp_path / "m" / "tiny" / ".tmp-3").mkdir()
    (tmp_path / "m" / "tiny" / "latest").mkdir()
    found = [(ref.name, ref.version) for ref in find_bundles(tmp_path / "m")]
    assert found == [("other", "1"), ("tiny", "1"), ("tiny", "2")]


def test_the_smallest_calibration_keeps_its_promise(ref: BundleRef) -> None:
    for spec in load(ref).manifest.detectors:  # of all five
        scores = read_calibration(ref.path, read_manifest(ref.path))[spec.name]
        assert len(scores) == CALIBRATION_SIZE
        assert (scores <= spec.threshold).mean() >= spec.id_acceptance
