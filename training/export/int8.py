"""A faster form of forward.onnx: convolutions and matrix products of its trunk in 8 bits.

Static quantisation after Jacob et al. 2018, arXiv:1712.05877: activations uint8 with ranges seen
on dev-ID, weights int8 by channel.  The trunk is what the logits are made of; the layer that
makes them, and every score, stay float32.  Scores read features off the quantised trunk, so the
variant has calibration scores and thresholds of its own.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto
from onnx.external_data_helper import set_external_data, uses_external_data

from service.bundle import (
    CALIBRATION_INT8,
    FORWARD,
    FORWARD_INT8,
    GOLDEN_INT8,
    Golden,
    GoldenTolerance,
    VariantPrice,
    VariantSpec,
    threshold_at,
    write_calibration,
    write_golden,
)
from training.export.graph import PIXELS
from training.export.onnx_network import open_network
from training.export.parity import Values, check_parity
from training.fitting import Network, SetScores
from training.scorer import LOGITS

# Integer kernels against the same graph in float arithmetic: a rounding that falls to the other
# side moves an activation by 1/255 of its range, and scores by up to 1e-2 behind forty layers.
INT8_TOLERANCE = 5e-2
# what a processor with other kernels may differ by, from twice what float arithmetic does here
_SMALLEST_GOLDEN, _LARGEST_GOLDEN = 2e-2, 1e-1
_IMAGES = 512
_BATCH = 64
_PRODUCTS = ("Conv", "Gemm", "MatMul")
_RECTIFIERS = ("Relu", "Clip")


class NothingToQuantise(Exception):
    """The network has no convolution or matrix product before the layer that makes the logits."""


@dataclass(frozen=True)
class Int8Graph:
    """The written graph, open, and the tolerance of its golden outputs."""

    network: Network
    tolerance: GoldenTolerance


def write_int8_graph(
    folder: Path, images: NDArray[np.uint8], golden: NDArray[np.uint8]
) -> Int8Graph:
    """Quantise the folder's forward.onnx; write the graph and its golden outputs.

    `images`: ID data that no threshold comes from, uint8 (N, H, W, C).  Raises NothingToQuantise,
    and ParityError where this processor's integer kernels do not compute what the graph says.
    """
    path = folder / FORWARD_INT8
    model = quantise(onnx.load(folder / FORWARD), images)
    _refer_to_weights(model, onnx.load(folder / FORWARD, load_external_data=False), folder)
    onnx.save(model, path)
    network = open_network(path)
    outputs = network(golden)
    simulated = open_network(path, optimised=False)(golden)
    check_parity(simulated, outputs, INT8_TOLERANCE)
    write_golden(folder, Golden(golden, outputs), GOLDEN_INT8)
    return Int8Graph(network, _golden_tolerance(simulated, outputs))


def describe_int8(
    folder: Path,
    graph: Int8Graph,
    calibration: SetScores,
    id_acceptance: float,
    price: VariantPrice,
) -> VariantSpec:
    """Write the variant's calibration scores; its entry of the manifest."""
    ordered = {name: np.sort(scores) for name, scores in calibration.scores.items()}
    write_calibration(folder, ordered, CALIBRATION_INT8)
    return VariantSpec(
        name="int8",
        graph=FORWARD_INT8,
        calibration=CALIBRATION_INT8,
        golden=GOLDEN_INT8,
        golden_tolerance=graph.tolerance,
        thresholds={name: threshold_at(scores, id_acceptance) for name, scores in ordered.items()},
        price=price,
    )


def quantise(model: ModelProto, images: NDArray[np.uint8]) -> ModelProto:
    """Forward graph -> the same with QuantizeLinear and DequantizeLinear around its products.

    Weights keep 7 of their 8 bits: a processor without VNNI adds pairs of products in 16 bits,
    which 8-bit weights overflow without a word, and then every score is wrong.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    nodes = quantised_nodes(model.graph)
    if not nodes:
        raise NothingToQuantise(
            "int8: the network has no convolution or matrix product with constant weights before "
            "the layer that makes the logits; set int8 = false"
        )
    # what the quantiser's own first step would do, the exporter has done
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "float.onnx"), Path(scratch, "int8.onnx")
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            _Images(images),  # pyright: ignore[reportArgumentType]  (known by its method)
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            nodes_to_quantize=[node.name for node in nodes],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantised = onnx.load(target)
    del quantised.metadata_props[:]
    del quantised.graph.value_info[:]
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def quantised_nodes(graph: GraphProto) -> list[NodeProto]:
    """The trunk's products with constant weights, but for the last, and the ReLUs behind them.

    A ReLU becomes an end of its product's range, which then spends no steps on what it cuts off.
    """
    made = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    trunk = {id(node) for node in _upstream(made, LOGITS)}
    last = {id(node) for node in _upstream(made, LOGITS, until=_PRODUCTS)}
    products = [
        node
        for node in graph.node
        if id(node) in trunk - last and node.op_type in _PRODUCTS and node.input[1] in constants
    ]
    outputs = {node.output[0] for node in products}
    rectifiers = [
        node
        for node in graph.node
        if id(node) in trunk and node.op_type in _RECTIFIERS and node.input[0] in outputs
    ]
    return products + rectifiers


def _upstream(
    made: dict[str, NodeProto], tensor: str, until: Sequence[str] = ()
) -> Iterator[NodeProto]:
    """Every node the tensor depends on, once; not beyond nodes of the types `until`."""
    seen: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in made:
            continue
        node = made[name]
        seen.update(node.output)
        yield node
        if node.op_type not in until:
            waiting.extend(node.input)


def _golden_tolerance(simulated: Values, served: Values) -> GoldenTolerance:
    gap = max(
        float((np.abs(served[name] - values) / (1 + np.abs(values))).max())
        for name, values in simulated.items()
    )
    allowed = round(min(max(2 * gap, _SMALLEST_GOLDEN), _LARGEST_GOLDEN), 4)
    return GoldenTolerance(absolute=allowed, relative=allowed)


class _Images:
    """Batches of images for the quantiser, in its reader's form."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        kept = np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).astype(np.int64)
        self.batches = (
            images[part] for part in np.split(kept, [*range(_BATCH, len(kept), _BATCH)])
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {PIXELS: batch}


def _refer_to_weights(model: ModelProto, forward: ModelProto, folder: Path) -> None:
    """Constants that forward.onnx keeps in weights.bin are not stored a second time."""
    places: dict[bytes, tuple[str, int, int]] = {}
    for tensor in forward.graph.initializer:
        if uses_external_data(tensor):
            entry = {item.key: item.value for item in tensor.external_data}
            place = entry["location"], int(entry["offset"]), int(entry["length"])
            with (folder / place[0]).open("rb") as stream:
                stream.seek(place[1])
                places[stream.read(place[2])] = place
    for tensor in model.graph.initializer:
        if (place := places.get(tensor.raw_data)) is not None:
            set_external_data(tensor, place[0], offset=place[1], length=place[2])
            tensor.ClearField("raw_data")
