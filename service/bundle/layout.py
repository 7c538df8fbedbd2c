"""Files of a bundle: names, digests, reading without pickle, atomic publishing."""

import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service.bundle.errors import (
    BundleCorrupt,
    BundleIncomplete,
    BundleUnsupported,
    ManifestInvalid,
)
from service.bundle.golden import Golden
from service.bundle.manifest import SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"
FORWARD = "forward.onnx"
CALIBRATION = "calibration.npz"
GOLDEN = "golden.npz"

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_GOLDEN_INPUTS = "inputs"
_GOLDEN_OUTPUT = "output:"


@dataclass(frozen=True, order=True)
class BundleRef:
    """Where one version of a bundle lies; sorts by name, then version number."""

    name: str
    number: int
    path: Path

    @property
    def version(self) -> str:
        return str(self.number)


def find_bundles(repository: Path) -> list[BundleRef]:
    """Every `<name>/<version>/` folder of a model repository, in order.

    Folders whose name starts with a dot (half-written ones) are never looked at.
    """
    refs = [
        BundleRef(version.parent.name, int(version.name), version)
        for version in repository.glob("*/*")
        if _VERSION.fullmatch(version.name)
        and not version.parent.name.startswith(".")
        and version.is_dir()
    ]
    return sorted(refs)


def sha256_of(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Raises BundleIncomplete, BundleUnsupported, ManifestInvalid."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise BundleIncomplete(path, f"cannot be read ({exc.strerror})") from exc
    try:
        version = json.loads(text).get("schema_version")
    except (ValueError, AttributeError) as exc:
        raise ManifestInvalid(path, f"is not a JSON object ({exc})") from exc
    if version != SCHEMA_VERSION:
        raise BundleUnsupported(
            path, f"schema_version {version!r}; this release reads {SCHEMA_VERSION}"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(map(str, error['loc'])) or 'manifest'}: {error['msg']}"
            for error in exc.errors(include_url=False)
        )
        raise ManifestInvalid(path, problems) from exc
    return manifest


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Digest of every file against the manifest, and no file the manifest does not name.

    Raises BundleIncomplete, BundleCorrupt.
    """
    present = {
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()
    }
    for name in sorted(present - set(manifest.files) - {MANIFEST}):
        raise BundleIncomplete(folder / name, "is not named in manifest.json; remove it")
    for name, digest in manifest.files.items():
        path = folder / name
        if name not in present or not path.resolve().is_relative_to(folder.resolve()):
            raise BundleIncomplete(path, "is named in manifest.json but missing")
        if sha256_of(path) != digest:
            raise BundleCorrupt(
                path, "differs from the digest in manifest.json; restore the bundle"
            )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")


def write_calibration(folder: Path, scores: Mapping[str, NDArray[np.float32]]) -> None:
    """Detector name -> ascending calibration scores (n,)."""
    np.savez(folder / CALIBRATION, allow_pickle=False, **scores)


def read_calibration(folder: Path, manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """Detector name -> ascending float32 (n,), checked against the manifest's entries."""
    path = folder / CALIBRATION
    arrays = _read_arrays(path)
    names = {spec.name for spec in manifest.detectors}
    if set(arrays) != names:
        raise BundleCorrupt(path, f"holds {sorted(arrays)}, the manifest {sorted(names)}")
    for spec in manifest.detectors:
        scores = arrays[spec.name]
        if scores.dtype != np.float32 or scores.shape != (spec.calibration_size,):
            raise BundleCorrupt(
                path,
                f"{spec.name}: {scores.dtype} {scores.shape}, "
                f"expected float32 ({spec.calibration_size},)",
            )
        if not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
            raise BundleCorrupt(path, f"{spec.name}: scores are not finite and ascending")
    return arrays


def write_golden(folder: Path, golden: Golden) -> None:
    outputs = {_GOLDEN_OUTPUT + name: values for name, values in golden.outputs.items()}
    np.savez_compressed(
        folder / GOLDEN, allow_pickle=False, **{_GOLDEN_INPUTS: golden.inputs}, **outputs
    )


def read_golden(folder: Path, manifest: Manifest) -> Golden:
    """Raises BundleIncomplete or BundleCorrupt."""
    path = folder / GOLDEN
    arrays = _read_arrays(path)
    spec = manifest.input
    inputs = arrays.pop(_GOLDEN_INPUTS, None)
    if (
        inputs is None
        or inputs.dtype != np.uint8
        or len(inputs) == 0
        or inputs.shape[1:] != (spec.height, spec.width, spec.channels)
    ):
        raise BundleCorrupt(path, "holds no uint8 inputs of the model's size")
    outputs = {
        name.removeprefix(_GOLDEN_OUTPUT): values.astype(np.float32)
        for name, values in arrays.items()
    }
    missing = {"logits", *(detector.output for detector in manifest.detectors)} - set(outputs)
    if missing:
        raise BundleCorrupt(path, f"holds no recorded {sorted(missing)}")
    for name, values in outputs.items():
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise BundleCorrupt(path, f"{name}: the recorded output is not finite float32")
    return Golden(inputs.astype(np.uint8), outputs)


def publish(temporary: Path, repository: Path, name: str) -> BundleRef:
    """Rename a finished, verified folder into place as the next version of `name`.

    Readers see the whole bundle or nothing.  Never replaces an existing version.
    """
    home = repository / name
    home.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(temporary)
    verify_files(temporary, manifest)
    target = home / manifest.version
    if target.exists():
        raise FileExistsError(f"{target} exists; published bundles never change")
    for file in temporary.rglob("*"):
        if file.is_file():
            file.chmod(0o644)  # the service runs as another user
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    try:
        temporary.rename(target)
    except OSError:  # another file system: copy beside the target, then rename
        beside = home / f".tmp-{manifest.version}"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(temporary, beside)
        beside.rename(target)
        shutil.rmtree(temporary)
    return BundleRef(name, int(manifest.version), target)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as exc:
        raise BundleIncomplete(path, "is missing") from exc
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError) as exc:
        raise BundleCorrupt(path, f"cannot be read as arrays ({exc})") from exc
