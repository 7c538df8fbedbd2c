"""Files of a bundle: names, digests, reading without pickle, atomic publishing."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from pydantic import ValidationError

from service.bundle.errors import (
    BundleCorrupt,
    BundleIncomplete,
    BundleUnsupported,
    ManifestInvalid,
)
from service.bundle.golden import Golden
from service.bundle.manifest import (
    SCHEMA_VERSION,
    DetectorSpec,
    ImageInput,
    Manifest,
    TextInput,
    VariantSpec,
)
from service.bundle.npy_headers import ONE_AT_A_TIME
from service.bundle.seal import SEAL, parse_object, seal_of

MANIFEST = "manifest.json"
CALIBRATION = "calibration.npz"
CALIBRATION_CLASSES = "calibration-classes.npz"
GOLDEN = "golden.npz"
WEIGHTS = "weights.bin"  # external data graphs may share, by this relative location
FORWARD_INT8 = "forward-int8.onnx"
CALIBRATION_INT8 = "calibration-int8.npz"
GOLDEN_INT8 = "golden-int8.npz"

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
    _check_regular(path)
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise BundleIncomplete(path, f"cannot be read ({exc.strerror})") from exc
    try:
        document = parse_object(text)
    except ValueError as exc:
        raise ManifestInvalid(path, f"is not a usable JSON object ({exc})") from exc
    document.pop(SEAL, None)  # check_seal's business
    version = document.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BundleUnsupported(
            path, f"schema_version {version!r}; this release reads {SCHEMA_VERSION}"
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(document))
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
        _check_regular(path)
        if sha256_of(path) != digest:
            raise BundleCorrupt(
                path, "differs from the digest in manifest.json; restore the bundle"
            )


def _check_regular(path: Path) -> None:
    """Reading a pipe or a device may never end.  Raises BundleIncomplete."""
    if path.exists() and not path.is_file():
        raise BundleIncomplete(path, "is no file; restore the bundle")


def check_seal(folder: Path) -> None:
    """The manifest against its own digest; last of all checks, since it cannot say what changed.

    Raises BundleCorrupt, naming the manifest.
    """
    path = folder / MANIFEST
    text = path.read_bytes()
    if parse_object(text).get(SEAL) != seal_of(text):
        raise BundleCorrupt(path, "differs from its own seal; restore the bundle")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """manifest.json with its seal."""
    document = manifest.model_dump(mode="json")
    document[SEAL] = seal_of(json.dumps(document))
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def write_calibration(
    folder: Path, scores: Mapping[str, NDArray[np.float32]], file: str = CALIBRATION
) -> None:
    """Detector name -> ascending calibration scores (n,); `file`: CALIBRATION_INT8 for int8."""
    np.savez(folder / file, allow_pickle=False, **scores)


def read_calibration(
    folder: Path, manifest: Manifest, variant: VariantSpec | None = None
) -> dict[str, NDArray[np.float32]]:
    """Detector name -> ascending float32 (n,), checked against the manifest's entries.

    Of a variant: the forward detectors only.  Raises BundleIncomplete or BundleCorrupt.
    """
    path = folder / (CALIBRATION if variant is None else variant.calibration)
    specs = _scored_by(manifest, variant)
    arrays = _read_arrays(path)
    names = {spec.name for spec in specs}
    if set(arrays) != names:
        raise BundleCorrupt(path, f"holds {sorted(arrays)}, the manifest {sorted(names)}")
    for spec in specs:
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


def write_calibration_classes(folder: Path, classes: Mapping[str, NDArray[np.int32]]) -> None:
    """Detector name -> the class predicted for each of its calibration scores, in their order."""
    np.savez_compressed(folder / CALIBRATION_CLASSES, allow_pickle=False, **classes)


def read_calibration_classes(
    folder: Path, manifest: Manifest
) -> dict[str, NDArray[np.int32]] | None:
    """Detector name -> int32 (n,); None where thresholds are those of all classes together.

    Raises BundleIncomplete or BundleCorrupt.
    """
    if manifest.calibration_classes is None:
        return None
    path = folder / manifest.calibration_classes
    arrays = _read_arrays(path)
    names = {spec.name for spec in manifest.detectors}
    if set(arrays) != names:
        raise BundleCorrupt(path, f"holds {sorted(arrays)}, the manifest {sorted(names)}")
    for spec in manifest.detectors:
        found = arrays[spec.name]
        if found.dtype != np.int32 or found.shape != (spec.calibration_size,):
            raise BundleCorrupt(
                path,
                f"{spec.name}: {found.dtype} {found.shape}, "
                f"expected int32 ({spec.calibration_size},)",
            )
        if found.min() < 0 or found.max() >= len(manifest.class_names):
            raise BundleCorrupt(path, f"{spec.name}: names a class that the model has not")
    return arrays


def write_golden(folder: Path, golden: Golden, file: str = GOLDEN) -> None:
    """Inputs and outputs of all graphs; `file`: GOLDEN_INT8, with that graph's outputs alone."""
    outputs = {_GOLDEN_OUTPUT + name: values for name, values in golden.outputs.items()}
    np.savez_compressed(
        folder / file, allow_pickle=False, **{_GOLDEN_INPUTS: golden.inputs}, **outputs
    )


def read_golden(folder: Path, manifest: Manifest, variant: VariantSpec | None = None) -> Golden:
    """Raises BundleIncomplete or BundleCorrupt."""
    path = folder / (GOLDEN if variant is None else variant.golden)
    arrays = _read_arrays(path)
    inputs = arrays.pop(_GOLDEN_INPUTS, None)
    if inputs is None or len(inputs) == 0 or not _fits(inputs, manifest.input):
        raise BundleCorrupt(path, "holds no inputs of the model's kind and size")
    outputs = {name.removeprefix(_GOLDEN_OUTPUT): values for name, values in arrays.items()}
    wanted = {"logits", *(detector.output for detector in _scored_by(manifest, variant))}
    if missing := wanted - set(outputs):
        raise BundleCorrupt(path, f"holds no recorded {sorted(missing)}")
    if unknown := set(outputs) - wanted:
        raise BundleCorrupt(path, f"holds {sorted(unknown)}, which no graph gives")
    for name, values in outputs.items():
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise BundleCorrupt(path, f"{name}: the recorded output is not finite float32")
    return Golden(inputs, outputs)


def _fits(inputs: NDArray[Any], spec: ImageInput | TextInput) -> bool:
    if isinstance(spec, TextInput):
        return inputs.dtype.kind == "U" and inputs.ndim == 1
    size = (spec.height, spec.width, spec.channels)
    return inputs.dtype == np.uint8 and inputs.ndim == 4 and inputs.shape[1:] == size


def publish(temporary: Path, repository: Path, name: str) -> BundleRef:
    """Rename a finished, verified folder into place as the next version of `name`.

    Readers see the whole bundle or nothing.  Never replaces an existing version.
    """
    home = repository / name
    home.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(temporary)
    verify_files(temporary, manifest)
    check_seal(temporary)
    target = home / manifest.version
    if target.exists():
        raise FileExistsError(f"{target} exists; published bundles never change")
    home.chmod(0o755)
    for file in (temporary, *temporary.rglob("*")):
        # the service runs as another user, whatever this one's umask
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.is_file():
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


def _scored_by(manifest: Manifest, variant: VariantSpec | None) -> Sequence[DetectorSpec]:
    return manifest.detectors if variant is None else manifest.forward_detectors()


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, ONE_AT_A_TIME:  # numpy would leave a damaged one open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise BundleCorrupt(path, "is one array, not an archive of arrays")
            with archive:
                members: dict[str, object] = {name: archive[name] for name in archive.files}
    except BundleCorrupt:
        raise
    except FileNotFoundError as exc:
        raise BundleIncomplete(path, "is missing") from exc
    except Exception as exc:  # a damaged archive fails in a dozen ways, all of them the file's
        raise BundleCorrupt(path, f"cannot be read as arrays ({exc})") from exc
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in members.items():
        if not isinstance(values, np.ndarray):
            raise BundleCorrupt(path, f"{name}: is no array")
        arrays[name] = cast(NDArray[Any], values)
    return arrays
