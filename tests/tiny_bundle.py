"""Builds the tests' bundle: linear logits over 8 x 8 grey pixels, three classes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from service.bundle import (
    CALIBRATION,
    CALIBRATION_INT8,
    FORWARD,
    FORWARD_INT8,
    GOLDEN,
    GOLDEN_INT8,
    WEIGHTS,
    BundleRef,
    DecisionPolicy,
    DetectorSpec,
    Golden,
    GoldenTolerance,
    ImageInput,
    Manifest,
    Provenance,
    VariantPrice,
    VariantSpec,
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
PASSES = "passes-mc_dropout.onnx"
FORWARD_DETECTORS = ("combined", "energy", "msp")
GRAPHS = dict.fromkeys(FORWARD_DETECTORS, FORWARD) | {"odin": PERTURBED, "mc_dropout": PASSES}
REPORT = "report.html"
_CONTRAST = 0.25  # scale of the logits
_STEPS = 7  # of the int8 variant's weights: few, so that its scores differ visibly
_ACCEPTANCE = 0.95


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


def reference_outputs(
    images: NDArray[np.uint8], *, int8: bool = False
) -> dict[str, NDArray[np.float32]]:
    """The graphs' outputs by an independent formula, in float64; `int8`: that variant's."""
    weight, bias = _head()
    if int8:
        levels, step = _quantised(weight)
        weight = levels * step
    x = images.reshape(len(images), -1) / 255.0
    logits = x @ weight + bias
    top = logits.max(axis=1)
    energy = -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))
    msp = -1 / np.exp(logits - top[:, None]).sum(axis=1)
    outputs = {
        "logits": logits,
        "score/msp": msp,
        "score/energy": energy,
        "score/combined": msp + 0.5 * energy,
        "score/odin": _cooled_msp(logits, 10),
        "score/mc_dropout": _cooled_msp(logits, 2),
    }
    return {name: values.astype(np.float32) for name, values in outputs.items()}


def publish_tiny_bundle(
    repository: Path,
    name: str,
    version: str,
    *,
    seed: int,
    gradient: bool = False,
    everything: bool = False,
) -> BundleRef:
    """`gradient` adds a detector `odin` with a graph of its own.  `everything` adds `mc_dropout`
    too, keeps the weights of all float graphs in one file, and carries an int8 variant.
    """
    folder = repository / f".tmp-{name}-{version}"
    folder.mkdir(parents=True)
    detectors = [*FORWARD_DETECTORS]
    if gradient or everything:
        write_perturbed_graph(folder / PERTURBED, WEIGHTS if everything else None)
        detectors.append("odin")
    if everything:
        _write_weights(folder / WEIGHTS)
        write_cooled_graph(folder / PASSES, "mc_dropout", "two", WEIGHTS)
        detectors.append("mc_dropout")
    write_forward_graph(folder / FORWARD, WEIGHTS if everything else None)
    calibration = _calibration(detectors, seed, int8=False)
    write_calibration(folder, calibration)
    golden = np.concatenate([id_images(6, seed + 100), ood_images(2, seed)])
    write_golden(folder, _recorded(golden, detectors, int8=False))
    (folder / REPORT).write_text("<!doctype html><title>tiny</title><p>report of tiny")
    variants = (_write_int8(folder, golden, seed),) if everything else ()
    manifest = _manifest(folder, name, version, calibration, variants)
    write_manifest(folder, manifest.model_copy(update={"label_counts": _label_counts(seed)}))
    return publish(folder, repository, name)


def write_forward_graph(path: Path, weights: str | None = None) -> None:
    """`weights`: location of the external data that holds the weight matrix."""
    _save(path, [*_logits_nodes(), *_score_nodes()], _FORWARD_OUTPUTS, weights)


def write_int8_graph(path: Path) -> None:
    """The forward graph with its weight matrix as int8 levels times a step."""
    nodes = [
        # not DequantizeLinear: onnxruntime would round the activations too
        helper.make_node("Cast", ["levels"], ["float_levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float_levels", "step"], ["weight"]),
        *_logits_nodes(),
        *_score_nodes(),
    ]
    _save(path, nodes, _FORWARD_OUTPUTS)


def write_perturbed_graph(path: Path, weights: str | None = None) -> None:
    """Stands for a gradient detector: temperature 10, no perturbation."""
    write_cooled_graph(path, "odin", "ten", weights)


def write_cooled_graph(path: Path, detector: str, temperature: str, weights: str | None) -> None:
    """Minus the largest softmax probability at a temperature, as `score/<detector>`."""
    nodes = [
        *_logits_nodes(),
        helper.make_node("Div", ["logits", temperature], ["cool"]),
        helper.make_node("Softmax", ["cool"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["msp"], keepdims=0),
        helper.make_node("Neg", ["msp"], [f"score/{detector}"]),
    ]
    _save(path, nodes, {f"score/{detector}": ("N",)}, weights)


def _head() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight (64, 3) and bias (3,)."""
    centred = templates().reshape(3, -1) / 255.0
    centred = centred - centred.mean(axis=0)
    return _CONTRAST * centred.T, np.array([0.1, 0.0, -0.1])


def _quantised(weight: NDArray[np.float64]) -> tuple[NDArray[np.int8], np.float32]:
    step = np.float32(np.abs(weight).max() / _STEPS)
    return np.rint(weight / step).astype(np.int8), step


def _cooled_msp(logits: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    cool = logits / temperature
    return -1 / np.exp(cool - cool.max(axis=1)[:, None]).sum(axis=1)


_FORWARD_OUTPUTS: dict[str, tuple[object, ...]] = {"logits": ("N", 3)} | {
    f"score/{detector}": ("N",) for detector in ("msp", "energy", "combined")
}


def _logits_nodes() -> list[object]:
    return [
        helper.make_node("Cast", ["images"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["raw", "scale"], ["scaled"]),
        helper.make_node("Flatten", ["scaled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]


def _score_nodes() -> list[object]:
    return [
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ReduceMax", ["probabilities", "axis"], ["msp"], keepdims=0),
        helper.make_node("Neg", ["msp"], ["score/msp"]),
        helper.make_node("ReduceLogSumExp", ["logits", "axis"], ["lse"], keepdims=0),
        helper.make_node("Neg", ["lse"], ["score/energy"]),
        helper.make_node("Mul", ["score/energy", "half"], ["half_energy"]),
        helper.make_node("Add", ["score/msp", "half_energy"], ["score/combined"]),
    ]


def _save(
    path: Path,
    nodes: list[object],
    outputs: dict[str, tuple[object, ...]],
    weights: str | None = None,
) -> None:
    weight, bias = _head()
    levels, step = _quantised(weight)
    constants = {
        "scale": np.float32(1 / 255),
        "weight": weight.astype(np.float32),
        "levels": levels,
        "step": step,
        "bias": bias.astype(np.float32),
        "axis": np.array([1], np.int64),
        "half": np.float32(0.5),
        "two": np.float32(2),
        "ten": np.float32(10),
    }
    made = {name for node in nodes for name in node.output}  # type: ignore[attr-defined]
    used = {name for node in nodes for name in node.input} - made  # type: ignore[attr-defined]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items() if n in used]
    for tensor in tensors:
        if weights is not None and tensor.name == "weight":
            set_external_data(tensor, weights, offset=0, length=len(tensor.raw_data))
            tensor.ClearField("raw_data")
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE, SIZE, 1])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        tensors,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="tests"
    )
    path.write_bytes(model.SerializeToString())


def _write_weights(path: Path) -> None:
    path.write_bytes(_head()[0].astype(np.float32).tobytes())


def _calibration(
    detectors: Sequence[str], seed: int, *, int8: bool
) -> dict[str, NDArray[np.float32]]:
    scores = reference_outputs(id_images(CALIBRATION_SIZE, seed), int8=int8)
    return {detector: np.sort(scores[f"score/{detector}"]) for detector in detectors}


def _label_counts(seed: int) -> tuple[int, ...]:
    labels = reference_outputs(id_images(CALIBRATION_SIZE, seed))["logits"].argmax(1)
    return tuple(np.bincount(labels, minlength=len(CLASSES)).tolist())


def _recorded(images: NDArray[np.uint8], detectors: Sequence[str], *, int8: bool) -> Golden:
    outputs = reference_outputs(images, int8=int8)
    names = ("logits", *(f"score/{detector}" for detector in detectors))
    return Golden(images, {name: outputs[name] for name in names})


def _write_int8(folder: Path, golden: NDArray[np.uint8], seed: int) -> VariantSpec:
    write_int8_graph(folder / FORWARD_INT8)
    calibration = _calibration(FORWARD_DETECTORS, seed, int8=True)
    write_calibration(folder, calibration, CALIBRATION_INT8)
    write_golden(folder, _recorded(golden, FORWARD_DETECTORS, int8=True), GOLDEN_INT8)
    return VariantSpec(
        name="int8",
        graph=FORWARD_INT8,
        calibration=CALIBRATION_INT8,
        golden=GOLDEN_INT8,
        thresholds={d: threshold_at(scores, _ACCEPTANCE) for d, scores in calibration.items()},
        price=VariantPrice(
            accuracy=0.9875,
            accuracy_fp32=1.0,
            auroc={"grey": {d: (0.99, 0.98) for d in FORWARD_DETECTORS}},
            speed_ratio={"1": 0.9, "32": 2.25},
            measured_on="no machine: made up for the tests",
        ),
    )


def _manifest(
    folder: Path,
    name: str,
    version: str,
    calibration: dict[str, NDArray[np.float32]],
    variants: tuple[VariantSpec, ...],
) -> Manifest:
    files = {file.name: sha256_of(file) for file in folder.iterdir()}
    assert {FORWARD, CALIBRATION, GOLDEN} <= set(files)
    costs = {"odin": "gradient", "mc_dropout": "multi_pass"}
    detectors = tuple(
        DetectorSpec(
            name=detector,
            output=f"score/{detector}",
            graph=GRAPHS[detector],
            cost=costs.get(detector, "logits"),  # type: ignore[arg-type]
            hyperparameters={},
            threshold=threshold_at(scores, _ACCEPTANCE),
            id_acceptance=_ACCEPTANCE,
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
        variants=variants,
    )
