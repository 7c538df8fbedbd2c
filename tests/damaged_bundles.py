"""Two dozen ways a bundle can be wrong, each with what the refusal says of it.

The bundles are those of tiny_bundle, with a graph on demand.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tiny_bundle import PERTURBED
from tiny_text_bundle import publish_tiny_text_bundle

from service.bundle import (
    CALIBRATION,
    FORWARD,
    GOLDEN,
    MANIFEST,
    Golden,
    read_golden,
    read_manifest,
    sha256_of,
    write_golden,
    write_manifest,
)


def edit(folder: Path, **values: Any) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(document | values))


def sign(folder: Path, file: str) -> None:
    """Digest and seal of the manifest as they should be."""
    manifest = read_manifest(folder)
    files = {**manifest.files, file: sha256_of(folder / file)}
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def flip(folder: Path, file: str) -> None:
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)


def truncate(folder: Path, file: str) -> None:
    os.truncate(folder / file, (folder / file).stat().st_size // 2)


def truncate_signed(folder: Path, file: str) -> None:
    truncate(folder, file)
    sign(folder, file)


def not_a_graph(folder: Path) -> None:
    (folder / FORWARD).write_bytes(b"no graph")
    sign(folder, FORWARD)


def golden_off(folder: Path) -> None:
    golden = read_golden(folder, read_manifest(folder))
    off = {name: values + np.float32(0.01) for name, values in golden.outputs.items()}
    write_golden(folder, Golden(golden.inputs, off))
    sign(folder, GOLDEN)


def half_copied(folder: Path) -> None:
    files = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    for file in files[len(files) // 2 :]:
        file.unlink()


def unreadable_link(folder: Path) -> None:
    (folder / GOLDEN).unlink()
    (folder / GOLDEN).symlink_to("/nowhere")


def pipe(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)


def device(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to("/dev/zero")


def other_graph(folder: Path) -> None:
    shutil.copy(folder / PERTURBED, folder / FORWARD)
    sign(folder, FORWARD)


def reads_texts(folder: Path) -> None:
    shutil.rmtree(folder)
    words = folder.parents[1] / ".words"
    publish_tiny_text_bundle(words, "tiny", folder.name).path.rename(folder)
    shutil.rmtree(words)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated graph": (lambda f: truncate(f, FORWARD), "digest"),
    "truncated graph, signed": (lambda f: truncate_signed(f, FORWARD), FORWARD),
    "truncated graph on demand": (lambda f: truncate(f, PERTURBED), "digest"),
    "truncated scores": (lambda f: truncate_signed(f, CALIBRATION), CALIBRATION),
    "truncated golden inputs": (lambda f: truncate_signed(f, GOLDEN), GOLDEN),
    "truncated manifest": (lambda f: truncate(f, MANIFEST), MANIFEST),
    "empty manifest": (lambda f: (f / MANIFEST).write_bytes(b""), MANIFEST),
    "flipped bit in the graph": (lambda f: flip(f, FORWARD), "digest"),
    "flipped bit in the scores": (lambda f: flip(f, CALIBRATION), "digest"),
    "flipped bit in the golden inputs": (lambda f: flip(f, GOLDEN), "digest"),
    "wrong digest": (lambda f: edit(f, files={FORWARD: "0" * 64}), MANIFEST),
    "broken seal": (lambda f: edit(f, description="other"), "seal"),
    "missing file": (lambda f: (f / GOLDEN).unlink(), "missing"),
    "missing manifest": (lambda f: (f / MANIFEST).unlink(), "cannot be read"),
    "extra file": (lambda f: (f / "notes.txt").write_text("x"), "not named"),
    "link out": (unreadable_link, "missing"),
    "pipe for a manifest": (lambda f: pipe(f, MANIFEST), "is no file"),
    "pipe for scores": (lambda f: pipe(f, CALIBRATION), "is no file"),
    "device for a manifest": (device, "is no file"),
    "golden outputs off": (golden_off, "differs from the recorded output"),
    "unknown schema": (lambda f: edit(f, schema_version=99), "schema_version 99"),
    "unknown field": (lambda f: edit(f, colour="red"), "colour"),
    "half copied": (half_copied, "missing"),
    "another model's place": (lambda f: edit(f, name="other"), "lies in"),
    "no graph": (not_a_graph, FORWARD),
    "another graph": (other_graph, "no output"),
    "another modality": (reads_texts, "reads texts"),
}
