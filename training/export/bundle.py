"""Write a bundle: everything but the report is decided here, once, in order.

Graph -> parity with torch on the golden inputs -> calibration by the graph itself -> manifest
(last, with every digest) -> rename into the repository.
"""

import importlib.metadata
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from service.bundle import (
    FORWARD,
    SCHEMA_VERSION,
    BundleRef,
    DecisionPolicy,
    DetectorSpec,
    Golden,
    GoldenTolerance,
    Manifest,
    Provenance,
    find_bundles,
    publish,
    sha256_of,
    threshold_at,
    write_calibration,
    write_golden,
    write_manifest,
)
from training.config import RunConfig
from training.evaluation.calibration import acceptance_interval
from training.export.graph import export_graph
from training.export.onnx_network import open_network
from training.export.parity import check_parity
from training.fitting import Network, SetScores, torch_network
from training.scorer import SCORE_PREFIX, Scorer

CHECKPOINT = "checkpoint.safetensors"
FIT = "fit.safetensors"
# float32 on another processor rounds otherwise; a damaged weight moves scores far more
GOLDEN_TOLERANCE = GoldenTolerance(absolute=2e-3, relative=1e-3)
_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "numpy", "pillow")


@dataclass(frozen=True)
class BundleParts:
    """What the manifest says beyond files and thresholds."""

    config: RunConfig
    class_names: tuple[str, ...]
    fingerprints: dict[str, str]
    duration_seconds: float


def write_graph(scorer: Scorer, config: RunConfig, golden: NDArray[np.uint8], to: Path) -> Network:
    """Export forward.onnx, state and golden outputs into the folder; return the open graph.

    Raises ParityError before anything else is written if ONNX and torch disagree.
    """
    graph = to / FORWARD
    export_graph(scorer, config.input, graph)
    network = open_network(graph)
    outputs = network(golden)
    check_parity(torch_network(scorer)(golden), outputs)
    write_golden(to, Golden(golden, outputs))
    save_file(scorer.classifier.backbone.state_dict(), to / CHECKPOINT)
    fitted = {
        name: value
        for name, value in scorer.state_dict().items()
        if name.startswith(("detectors.", "ensembles."))
    }
    save_file({name: value.contiguous() for name, value in fitted.items()}, to / FIT)
    return network


def publish_bundle(
    folder: Path,
    repository: Path,
    scorer: Scorer,
    calibration: SetScores,
    parts: BundleParts,
) -> BundleRef:
    """Calibrate, digest every file of the folder, write the manifest, publish."""
    config = parts.config
    write_calibration(folder, {name: np.sort(s) for name, s in calibration.scores.items()})
    specs = detector_specs(scorer, calibration, config.id_acceptance)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=config.name,
        version=str(next_version(repository, config.name)),
        modality="image",
        description=config.description,
        input=config.input,
        class_names=parts.class_names,
        detectors=specs,
        policy=DecisionPolicy(primary=config.primary),
        golden_tolerance=GOLDEN_TOLERANCE,
        files={
            file.relative_to(folder).as_posix(): sha256_of(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
        provenance=Provenance(
            created=datetime.now(UTC).replace(microsecond=0),
            config=config.model_dump(mode="json"),
            data=parts.fingerprints,
            libraries=library_versions(),
            seed=config.seed,
            duration_seconds=round(parts.duration_seconds, 1),
        ),
    )
    write_manifest(folder, manifest)
    return publish(folder, repository, config.name)


def detector_specs(
    scorer: Scorer, calibration: SetScores, id_acceptance: float
) -> tuple[DetectorSpec, ...]:
    """One manifest entry for every score of the graph."""
    described = scorer.describe()
    specs = []
    for name, scores in calibration.scores.items():
        description = described[name]
        ordered = np.sort(scores)
        specs.append(
            DetectorSpec(
                name=name,
                output=SCORE_PREFIX + name,
                graph=FORWARD,
                cost=description.cost,
                hyperparameters=dict(description.hyperparameters),
                threshold=threshold_at(ordered, id_acceptance),
                id_acceptance=id_acceptance,
                calibration_size=len(ordered),
                acceptance_interval=acceptance_interval(len(ordered), id_acceptance),
                reference=description.reference,
            )
        )
    return tuple(specs)


def next_version(repository: Path, name: str) -> int:
    """One above the highest published version."""
    return 1 + max((ref.number for ref in find_bundles(repository) if ref.name == name), default=0)


def library_versions() -> dict[str, str]:
    """Versions of what shaped the numbers."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # onnxruntime-gpu is plain onnxruntime on some platforms
    return versions
