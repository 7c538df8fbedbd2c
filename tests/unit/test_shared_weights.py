"""Constants of several graphs in one file: stored once, read back the same, nothing else moved."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from service.bundle import WEIGHTS
from training.export.shared_weights import share_weights

LARGE = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
OWN = np.random.default_rng(1).normal(size=(32, 16)).astype(np.float32)
SMALL = np.arange(16, dtype=np.float32)


def write(path: Path, constants: dict[str, NDArray[np.float32]]) -> None:
    """y = x @ large @ own + small, with whichever constants are given."""
    nodes, value = [], "x"
    for index, (name, array) in enumerate(constants.items()):
        kind = "Add" if array.ndim == 1 else "MatMul"
        nodes.append(helper.make_node(kind, [value, name], [f"t{index}"]))
        value = f"t{index}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )


def run(path: Path, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": rows})[0])


def test_equal_constants_are_stored_once_and_results_stay(tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    write(first, {"a": LARGE, "b": OWN, "c": SMALL})
    write(second, {"z": LARGE})
    rows = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    before = run(first, rows), run(second, rows)
    weights = share_weights([first, second])
    assert weights == tmp_path / WEIGHTS
    assert weights.stat().st_size < LARGE.nbytes + OWN.nbytes + 4096
    assert first.stat().st_size < 1024
    np.testing.assert_array_equal(run(first, rows), before[0])
    np.testing.assert_array_equal(run(second, rows), before[1])
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for path in (first, second)
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
    }
    assert places["a"] == places["z"]
    assert places["a"]["location"] == WEIGHTS
    assert places["c"] == {}  # too small to be worth a reference


def test_what_a_state_file_holds_is_read_there(tmp_path: Path) -> None:
    graph, state = tmp_path / "graph.onnx", tmp_path / "fit.safetensors"
    write(graph, {"a": LARGE, "b": OWN})
    save_file({"other": SMALL, "bank": LARGE, "thin": SMALL[:3]}, state)
    rows = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    before = run(graph, rows)
    weights = share_weights([graph], [state])
    assert weights.stat().st_size == OWN.nbytes
    np.testing.assert_array_equal(run(graph, rows), before)
    locations = {
        tensor.name: next(e.value for e in tensor.external_data if e.key == "location")
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer
    }
    assert locations == {"a": state.name, "b": WEIGHTS}


def test_a_matrix_stored_the_other_way_round_is_turned_on_loading(tmp_path: Path) -> None:
    graph, state = tmp_path / "graph.onnx", tmp_path / "fit.safetensors"
    write(graph, {"a": LARGE, "b": OWN})
    save_file({"whitening": np.ascontiguousarray(LARGE.T)}, state)
    rows = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    before = run(graph, rows)
    assert share_weights([graph], [state]).stat().st_size == OWN.nbytes
    np.testing.assert_array_equal(run(graph, rows), before)
    model = onnx.load(graph, load_external_data=False)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "MatMul", "MatMul"]
