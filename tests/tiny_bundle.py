"""Builds the tests' bundle: linear logits over 8 x 8 grey pixels, three classes."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save_model

from service.bundle import (
    CALIBRATION,
    FORWARD,
    GOLDEN,
    BundleRef,
    DecisionPolicy,
    DetectorSpec,
    Golden,
    GoldenTolerance,
    ImageInput,
    Manifest,
    Provenance,
    publish,
    sha256_of,
    threshold_at,
    write_calibration,
    write_golden,
    write_manifest,
)

CLASSES = ("stripes", "frame", "half")
SIZE = 8
CALIBRATION_SIZE = 199
PERTURBED = "perturbed-odin.onnx"
REPORT = "report.html"
_CONTRAST = 0.25  # scale of the logits


def templates() -> NDArray[np.uint8]:
    """One picture a class: uint8 (3, 8, 8, 1)."""
    images = np.full((3, SIZE, SIZE, 1), 30, np.uint8)
    images[0, ::2] = 220
    images[1, [0, -1]] = images[1, :, [0, -1]] = 220
    images[2, :, : SIZE // 2] = 220
    return images


def id_images(count: int, seed: int) -> NDArray[np.uint8]:
    """Templates in turn with noise: uint8 (count, 8, 8, 1)."""
    noise = np.random.default_rng(seed).normal(0, 12, (count, SIZE, SIZE, 1))
    clean = templates()[np.arange(count) % len(CLASSES)]
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


def ood_images(count: int, seed: int) -> NDArray[np.uint8]:
    """Flat grey of any lightness with a little noise: uint8 (count, 8, 8, 1)."""
    rng = np.random.default_rng(seed)
    level = rng.integers(100, 150, (count, 1, 1, 1))
    return (level + rng.integers(0, 8, (count, SIZE, SIZE, 1))).astype(np.uint8)


def reference_outputs(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """The graphs' outputs by an independent formula, in float64."""
    weight, bias = _head()
    x = images.reshape(len(images), -1) / 255.0
    logits = x @ weight + bias
    top = logits.max(axis=1)
    energy = -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))
    msp = -1 / np.exp(logits - top[:, None]).sum(axis=1)
    cool = logits / 10
    odin = -1 / np.exp(cool - cool.max(axis=1)[:, None]).sum(axis=1)
    outputs = {
        "logits": logits,
        "score/msp": msp,
        "score/energy": energy,
        "score/combined": msp + 0.5 * energy,
        "score/odin": odin,
    }
    return {name: values.astype(np.float32) for name, values in outputs.items()}


def publish_tiny_bundle(
    repository: Path, name: str, version: str, *, seed: int, gradient: bool = False
) -> BundleRef:
    """`gradient` adds a detector `odin` with a graph of its own."""
    folder = repository / f".tmp-{name}-{version}"
    folder.mkdir(parents=True)
    write_forward_graph(folder / FORWARD)
    detectors = ["combined", "energy", "msp"]
    if gradient:
        write_perturbed_graph(folder / PERTURBED)
        detectors.append("odin")
    scores = reference_outputs(id_images(CALIBRATION_SIZE, seed))
    calibration = {detector: np.sort(scores[f"score/{detector}"]) for detector in detectors}
    write_calibration(folder, calibration)
    golden_inputs = np.concatenate([id_images(6, seed + 100), ood_images(2, seed)])
    outputs = reference_outputs(golden_inputs)
    kept = {"logits": outputs["logits"]} | {f"score/{d}": outputs[f"score/{d}"] for d in detectors}
    write_golden(folder, Golden(golden_inputs, kept))
    (folder / REPORT).write_text("<!doctype html><title>tiny</title><p>report of tiny")
    write_manifest(folder, _manifest(folder, name, version, calibration))
    return publish(folder, repository, name)


def write_forward_graph(path: Path) -> None:
    nodes = [
        *_logits_nodes(),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["msp"], keepdims=0),
        helper.make_node("Neg", ["msp"], ["score/msp"]),
        helper.make_node("ReduceLogSumExp", ["logits", "axis"], ["lse"], keepdims=0),
        helper.make_node("Neg", ["lse"], ["score/energy"]),
        helper.make_node("Mul", ["score/energy", "half"], ["half_energy"]),
        helper.make_node("Add", ["score/msp", "half_energy"], ["score/combined"]),
    ]
    outputs = {"logits": ("N", 3)} | {f"score/{d}": ("N",) for d in ("msp", "energy", "combined")}
    _save(path, nodes, outputs)


def write_perturbed_graph(path: Path) -> None:
    """Stands for a gradient detector: temperature 10, no perturbation."""
    nodes = [
        *_logits_nodes(),
        helper.make_node("Div", ["logits", "ten"], ["cool"]),
        helper.make_node("Softmax", ["cool"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["msp"], keepdims=0),
        helper.make_node("Neg", ["msp"], ["score/odin"]),
    ]
    _save(path, nodes, {"score/odin": ("N",)})


def _head() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centred = templates().reshape(3, -1) / 255.0
    centred = centred - centred.mean(axis=0)
    return _CONTRAST * centred.T, np.array([0.1, 0.0, -0.1])


def _logits_nodes() -> list[object]:
    return [
        helper.make_node("Cast", ["images"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["raw", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]


def _save(path: Path, nodes: list[object], outputs: dict[str, tuple[object, ...]]) -> None:
    weight, bias = _head()
    constants = {
        "scale": np.float32(1 / 255),
        "weight": weight.astype(np.float32),
        "bias": bias.astype(np.float32),
        "axis": np.array([1], np.int64),
        "half": np.float32(0.5),
        "ten": np.float32(10),
    }
    used = {name for node in nodes for name in node.input}  # type: ignore[attr-defined]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 1])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items() if n in used],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="tests"
    )
    save_model(model, str(path))


def _manifest(
    folder: Path, name: str, version: str, calibration: dict[str, NDArray[np.float32]]
) -> Manifest:
    files = {file.name: sha256_of(file) for file in folder.iterdir()}
    assert {FORWARD, CALIBRATION, GOLDEN} <= set(files)
    detectors = tuple(
        DetectorSpec(
            name=detector,
            output=f"score/{detector}",
            graph=PERTURBED if detector == "odin" else FORWARD,
            cost="gradient" if detector == "odin" else "logits",
            hyperparameters={},
            threshold=threshold_at(scores, 0.95),
            id_acceptance=0.95,
            calibration_size=len(scores),
            acceptance_interval=(0.92, 0.97),
            reference="1610.02136",
        )
        for detector, scores in calibration.items()
    )
    return Manifest(
        schema_version=1,
        name=name,
        version=version,
        modality="image",
        description="Three patterns of 8 x 8 grey pixels.",
        input=ImageInput(height=SIZE, width=SIZE, channels=1, mean=(0.0,), std=(1.0,)),
        class_names=CLASSES,
        detectors=detectors,
        policy=DecisionPolicy(primary="combined"),
        golden_tolerance=GoldenTolerance(absolute=1e-4, relative=1e-4),
        files=files,
        provenance=Provenance(
            created=datetime(2026, 1, 1, tzinfo=UTC),
            config={},
            data={"id": "synthetic"},
            libraries={},
            seed=0,
            duration_seconds=0.1,
        ),
    )
