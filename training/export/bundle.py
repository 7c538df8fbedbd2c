"""Write a bundle: everything but the report is decided here, once, in order.

Graph -> parity with torch on the golden inputs -> calibration by the graph itself -> manifest
(last, with every digest) -> rename into the repository.
"""

import importlib.metadata
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from service.bundle import (
    CALIBRATION_CLASSES,
    FORWARD,
    SCHEMA_VERSION,
    BundleRef,
    DecisionPolicy,
    DetectorSpec,
    Golden,
    GoldenTolerance,
    Manifest,
    Provenance,
    VariantSpec,
    find_bundles,
    publish,
    sha256_of,
    threshold_at,
    write_calibration,
    write_calibration_classes,
    write_golden,
    write_manifest,
)
from training.backbones.onnx_graph import OnnxGraph
from training.config import RunConfig
from training.evaluation.calibration import acceptance_interval
from training.export.appended import append_scores
from training.export.gradient_graph import export_gradient_graph
from training.export.graph import export_graph
from training.export.onnx_network import open_network
from training.export.parity import GRADIENT_TOLERANCE, RELATIVE_TOLERANCE, check_parity
from training.export.shared_weights import share_weights
from training.fitting import Network, SetScores, torch_network
from training.graph_detectors import GradientDetector
from training.progress import track
from training.scorer import SCORE_PREFIX
from training.side_scorer import Scorers, SideScorer

CHECKPOINT = "checkpoint.safetensors"
FIT = "fit.safetensors"
TOKENIZER = "tokenizer.json"
# float32 on another processor rounds otherwise; a damaged weight moves scores far more
GOLDEN_TOLERANCE = GoldenTolerance(absolute=2e-3, relative=1e-3)
# single pixels step the other way where a gradient is all but zero
GRADIENT_GOLDEN_TOLERANCE = GoldenTolerance(absolute=2e-2, relative=2e-2)
_LIBRARIES = (
    *("torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "numpy", "pillow"),
    "tokenizers",
)


@dataclass(frozen=True)
class GoldenInputs:
    """raw: what golden.npz holds, images or texts; inputs: the same as the graphs read them."""

    raw: NDArray[np.uint8] | NDArray[np.str_]
    inputs: NDArray[Any]


@dataclass(frozen=True)
class BundleParts:
    """What the manifest says beyond files and thresholds."""

    config: RunConfig
    class_names: tuple[str, ...]
    fingerprints: dict[str, str]
    duration_seconds: float
    tokenizer: Tokenizer | None = None  # of texts


def write_graphs(
    scorers: Scorers, config: RunConfig, golden: GoldenInputs, to: Path
) -> list[Network]:
    """Export every graph, state and golden outputs into the folder; return the open graphs.

    Raises ParityError before anything else is written if ONNX and torch disagree.
    """
    spec = scorers.classifier.spec
    paths = [to / FORWARD]
    if isinstance(scorers.classifier.backbone, OnnxGraph):
        append_scores(scorers.forward, paths[0])
    else:
        export_graph(scorers.forward, spec, paths[0])
    for side in track(scorers.sides, "exporting graphs"):
        path = to / side.detector.graph
        if isinstance(side.detector, GradientDetector):
            export_gradient_graph(side, spec, path, config.gradient_lowering)
        else:
            export_graph(side, spec, path)
        paths.append(path)
    _save(scorers.classifier.backbone.state_dict(), to / CHECKPOINT)
    fitted = _fitted(scorers.forward, "")
    for side in scorers.sides:
        fitted |= _fitted(side, f"{side.detector.name}.")
    _save(fitted, to / FIT)
    share_weights(paths, [to / CHECKPOINT, to / FIT])
    networks = [open_network(path) for path in paths]
    outputs: dict[str, NDArray[np.float32]] = {}
    for network, part in zip(networks, (scorers.forward, *scorers.sides), strict=True):
        gradient = isinstance(part, SideScorer) and isinstance(part.detector, GradientDetector)
        tolerance = GRADIENT_TOLERANCE if gradient else RELATIVE_TOLERANCE
        found = network(golden.inputs)
        check_parity(torch_network(part)(golden.inputs), found, tolerance)
        outputs |= found
    write_golden(to, Golden(golden.raw, outputs))
    return networks


def _fitted(part: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The state of detectors and ensembles, not of the network."""
    return {
        prefix + name: value
        for name, value in part.state_dict().items()
        if name.startswith(("detectors.", "detector.", "ensembles."))
    }


def _save(state: dict[str, Tensor], path: Path) -> None:
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)


def publish_bundle(
    folder: Path,
    repository: Path,
    scorers: Scorers,
    calibration: SetScores,
    parts: BundleParts,
    variants: tuple[VariantSpec, ...] = (),
) -> BundleRef:
    """Calibrate, digest every file of the folder, write the manifest, publish."""
    config = parts.config
    if parts.tokenizer is not None:
        parts.tokenizer.save(str(folder / TOKENIZER))
    write_calibration(folder, {name: np.sort(s) for name, s in calibration.scores.items()})
    if config.thresholds_by_class:
        write_calibration_classes(folder, predicted_classes(calibration))
    specs = detector_specs(scorers, calibration, config.id_acceptance)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=config.name,
        version=str(next_version(repository, config.name)),
        modality=config.modality,
        description=config.description,
        input=scorers.classifier.spec,
        class_names=parts.class_names,
        detectors=specs,
        policy=DecisionPolicy(primary=config.primary),
        golden_tolerance=GOLDEN_TOLERANCE,
        gradient_tolerance=(
            GRADIENT_GOLDEN_TOLERANCE if any(s.cost == "gradient" for s in specs) else None
        ),
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
        variants=variants,
        label_counts=label_counts(calibration, len(parts.class_names)),
        calibration_classes=CALIBRATION_CLASSES if config.thresholds_by_class else None,
    )
    write_manifest(folder, manifest)
    return publish(folder, repository, config.name)


def label_counts(calibration: SetScores, classes: int) -> tuple[int, ...]:
    """How often each class is predicted for the calibration inputs (classes,)."""
    return tuple(np.bincount(calibration.logits.argmax(1), minlength=classes).tolist())


def predicted_classes(calibration: SetScores) -> dict[str, NDArray[np.int32]]:
    """Score name -> the class predicted for each calibration score, in ascending order of scores.

    Scores of a graph of several passes are those of a part of the set, taken evenly.
    """
    predicted = calibration.logits.argmax(1).astype(np.int32)
    found = {}
    for name, scores in calibration.scores.items():
        rows = np.linspace(0, len(predicted) - 1, len(scores)).astype(np.int64)
        found[name] = predicted[rows][np.argsort(scores, kind="stable")]
    return found


def detector_specs(
    scorers: Scorers, calibration: SetScores, id_acceptance: float
) -> tuple[DetectorSpec, ...]:
    """One manifest entry for every score of every graph."""
    described = scorers.describe()
    graphs = scorers.graph_of()
    specs = []
    for name, scores in calibration.scores.items():
        description = described[name]
        ordered = np.sort(scores)
        specs.append(
            DetectorSpec(
                name=name,
                output=SCORE_PREFIX + name,
                graph=graphs[name],
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
