"""Tiny bundles whose scores tell their version: version k adds k to every logit.

The softmax stays, so `msp` does; `energy` is lower by k, `combined` by k / 2, thresholds with them.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from tiny_bundle import publish_tiny_bundle, reference_outputs

from service.bundle import (
    CALIBRATION,
    FORWARD,
    GOLDEN,
    BundleRef,
    Golden,
    publish,
    read_calibration,
    read_golden,
    read_manifest,
    sha256_of,
    threshold_at,
    write_calibration,
    write_golden,
    write_manifest,
)

_SHIFTS = {"logits": 1.0, "score/energy": -1.0, "score/combined": -0.5}


def scores_of(version: int, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Detector -> scores (N,) that version has to give, by the tests' own formula."""
    outputs = reference_outputs(images)
    return {
        detector: outputs[f"score/{detector}"].astype(np.float64)
        + version * _SHIFTS.get(f"score/{detector}", 0.0)
        for detector in ("combined", "energy", "msp")
    }


def publish_versioned(repository: Path, version: int, *, gradient: bool = False) -> BundleRef:
    """`tiny/<version>`, renamed into place when it is whole."""
    workshop = repository / ".workshop"
    ref = publish_tiny_bundle(workshop, "tiny", str(version), seed=1, gradient=gradient)
    model = onnx.load(str(ref.path / FORWARD))
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "bias"]
    bias.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(version), "bias")
    )
    onnx.save(model, str(ref.path / FORWARD))
    manifest = read_manifest(ref.path)
    golden = read_golden(ref.path, manifest)
    outputs = {n: _shifted(n, values, version) for n, values in golden.outputs.items()}
    write_golden(ref.path, Golden(golden.inputs, outputs))
    calibration = {
        name: _shifted(f"score/{name}", scores, version)
        for name, scores in read_calibration(ref.path, manifest).items()
    }
    write_calibration(ref.path, calibration)
    detectors = tuple(
        spec.model_copy(
            update={"threshold": threshold_at(calibration[spec.name], spec.id_acceptance)}
        )
        for spec in manifest.detectors
    )
    changed = {file: sha256_of(ref.path / file) for file in (FORWARD, CALIBRATION, GOLDEN)}
    files = {**manifest.files, **changed}
    write_manifest(ref.path, manifest.model_copy(update={"detectors": detectors, "files": files}))
    return publish(ref.path, repository, "tiny")


def _shifted(output: str, values: NDArray[np.float32], version: int) -> NDArray[np.float32]:
    return (values + version * _SHIFTS.get(output, 0.0)).astype(np.float32)
