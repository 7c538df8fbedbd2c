"""Fused graphs: fewer nodes, the same values; what only looks alike is left alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.export.fusion import fuse

X = np.random.default_rng(0).normal(0, 8, (5, 6)).astype(np.float32)
ROWS = np.array([3, 0, 2, 2, 1], np.int64)
TABLE = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)


def model(nodes: list[onnx.NodeProto], **constants: NDArray[np.generic]) -> onnx.ModelProto:
    """Inputs x (N, 6) float32 and rows (N,) int64; the last node makes y."""
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6]),
            helper.make_tensor_value_info("rows", TensorProto.INT64, ["N"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10)
    )


def run(proto: onnx.ModelProto) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (values,) = session.run(["y"], {"x": X, "rows": ROWS})
    return np.asarray(values)


def fused(proto: onnx.ModelProto) -> tuple[Counter[str], NDArray[np.float32]]:
    """Operators and values after fusion."""
    representation = ir.from_proto(proto)
    fuse(representation)
    after = ir.to_proto(representation)
    return Counter(node.op_type for node in after.graph.node), run(after)


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), output.split(), **attributes)


AXIS = np.array([1], np.int64)
LAST = np.array([-1], np.int64)
FITTING = {
    "sum of squares": (
        [node("Pow", "x two", "p"), node("ReduceSum", "p axis", "y", keepdims=0)],
        {"two": np.float32(2), "axis": AXIS},
        {"ReduceSumSquare": 1},
    ),
    "kept dimension": (
        [node("Pow", "x two", "p"), node("ReduceSum", "p axis", "y", keepdims=1)],
        {"two": np.float32(2), "axis": AXIS},
        {"ReduceSumSquare": 1},
    ),
    "a square": (
        [node("Pow", "x two", "y")],
        {"two": np.float32(2)},
        {"Mul": 1},
    ),
    "the sum of many squares": (
        [
            node("Expand", "x many", "wide"),
            node("Pow", "wide two", "p"),
            node("ReduceSum", "p axis", "y", keepdims=0),
        ],
        {"many": np.array([1, 5000, 1, 6], np.int64), "two": np.float32(2), "axis": AXIS},
        {"Expand": 1, "Mul": 1, "ReduceSum": 1},
    ),
    "squares that are read again": (
        [
            node("Pow", "x two", "p"),
            node("ReduceSum", "p axis", "t", keepdims=1),
            node("Div", "p t", "y"),
        ],
        {"two": np.float32(2), "axis": AXIS},
        {"Mul": 1, "ReduceSum": 1, "Div": 1},
    ),
    "sum of magnitudes": (
        [node("Abs", "x", "p"), node("ReduceSum", "p axis", "y", keepdims=0)],
        {"axis": AXIS},
        {"ReduceL1": 1},
    ),
    "softplus": (
        [
            node("Softplus", "x", "s"),
            node("Greater", "x limit", "g"),
            node("Where", "g x s", "y"),
        ],
        {"limit": np.float32(20)},
        {"Softplus": 1},
    ),
    "rows": (
        [
            node("Unsqueeze", "rows last", "i"),
            node("GatherND", "table i", "a", batch_dims=0),
            node("GatherND", "other i", "b", batch_dims=0),
            node("Add", "a b", "y"),
        ],
        {"table": TABLE, "other": TABLE + 1, "last": LAST},
        {"Gather": 2, "Add": 1},
    ),
}
UNFIT = {
    "cubes": (
        [node("Pow", "x three", "p"), node("ReduceSum", "p axis", "y", keepdims=0)],
        {"three": np.float32(3), "axis": AXIS},
    ),
    "one exponent a column": (
        [node("Pow", "x powers", "p"), node("ReduceSum", "p axis", "y", keepdims=0)],
        {"powers": np.array([2, 2, 2, 2, 2, 1], np.float32), "axis": AXIS},
    ),
    "magnitudes that are read again": (
        [
            node("Abs", "x", "p"),
            node("ReduceSum", "p axis", "t", keepdims=1),
            node("Div", "p t", "y"),
        ],
        {"axis": AXIS},
    ),
    "a low threshold": (
        [
            node("Softplus", "x", "s"),
            node("Greater", "x limit", "g"),
            node("Where", "g x s", "y"),
        ],
        {"limit": np.float32(1)},
    ),
    "tuples of two": (
        [
            node("Unsqueeze", "rows last", "i"),
            node("Concat", "i i", "ii", axis=1),
            node("GatherND", "table ii", "y", batch_dims=0),
        ],
        {"table": np.concatenate([TABLE, TABLE]), "last": LAST},
    ),
    "a table of the batch": (
        [node("Unsqueeze", "rows first", "i"), node("GatherND", "table i", "y", batch_dims=0)],
        {"table": np.ones((4, 6, 6, 6, 6, 6), np.float32), "first": np.array([0], np.int64)},
    ),
}


@pytest.mark.parametrize("case", sorted(FITTING))
def test_one_operator_for_several(case: str) -> None:
    nodes, constants, expected = FITTING[case]
    proto = model(nodes, **constants)
    operators, values = fused(proto)
    assert operators == expected
    np.testing.assert_allclose(values, run(proto), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", sorted(UNFIT))
def test_what_only_looks_alike_stays(case: str) -> None:
    nodes, constants = UNFIT[case]
    proto = model(nodes, **constants)
    operators, values = fused(proto)
    assert operators == Counter(node.op_type for node in nodes)
    np.testing.assert_array_equal(values, run(proto))


def test_an_exported_detector_is_fused(tmp_path: Path) -> None:
    from toy import TOY_SPEC, toy_classifier

    from training.detectors.gen import Gen
    from training.export import export_graph
    from training.scorer import Scorer

    export_graph(Scorer(toy_classifier(), [Gen()]), TOY_SPEC, tmp_path / "graph.onnx")
    operators = Counter(n.op_type for n in onnx.load(tmp_path / "graph.onnx").graph.node)
    assert operators["Softplus"] == 1
    assert operators["Where"] == operators["Greater"] == 0
