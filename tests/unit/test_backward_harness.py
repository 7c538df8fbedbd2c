"""What the tests of the backward pass share: one comparison with autograd, itself tested."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor

from training.export.backward import RULES, Graph, Lowering, UnsupportedOperator

BATCHES = (1, 3, 7)
LOWERINGS: tuple[Lowering, ...] = get_args(Lowering)
Array = NDArray[Any]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Mapping[str, Array | np.generic],
    opset: int = 20,
) -> ModelProto:
    """A checked model of float32 inputs with these shapes; symbols are dynamic dimensions."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v)) for k, v in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    return model


def one_node(
    op_type: str,
    shape: Sequence[int | str],
    *constants: Array | np.generic | None,
    position: int = 0,
    outputs: int = 1,
    opset: int = 20,
    **attributes: Any,
) -> ModelProto:
    """y = op(x, *constants) for x of shape ("N", *shape), x standing at `position`."""
    named = {f"c{i}": value for i, value in enumerate(constants) if value is not None}
    inputs = ["" if value is None else f"c{i}" for i, value in enumerate(constants)]
    inputs.insert(position, "x")
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    node = helper.make_node(op_type, inputs, names, **attributes)
    return model_of([node], {"x": ["N", *shape]}, names[:1], named, opset)


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, dict(feeds))]


def differentiated(model: ModelProto, lowering: Lowering) -> ModelProto:
    """The model with outputs y and dx = dL/dx for the seed dL/dy = tanh(y) + 0.5."""
    graph = Graph.from_model(model)
    seed = graph.add("Add", [graph.add("Tanh", ["y"]), graph.constant(np.float32(0.5))])
    return graph.to_model({"y": "y", "dx": graph.backward({"y": seed}, "x", lowering)})


def assert_as_autograd(
    model: ModelProto,
    reference: Callable[[Tensor], Tensor],
    sample: Callable[[int], Array],
    tolerance: float = 2e-5,
    batches: Sequence[int] = BATCHES,
) -> None:
    """Both lowerings compute y and dx as torch does in float64, at every batch size.

    `tolerance` is relative to the largest element: float32 sums in another order.
    """
    for lowering in LOWERINGS:
        both = differentiated(model, lowering)
        for batch in batches:
            x = sample(batch)
            y, dx = run(both, {"x": x})
            leaf = torch.from_numpy(x).double().requires_grad_()
            expected = reference(leaf)
            expected.backward(torch.tanh(expected.detach()) + 0.5)
            assert leaf.grad is not None
            assert dx.shape == x.shape
            where = f"{lowering}, batch {batch}"
            assert_near(y, expected.detach().numpy(), tolerance, f"y, {where}")
            assert_near(dx, leaf.grad.numpy(), tolerance, f"dx, {where}")


def assert_near(actual: Array, expected: Array, tolerance: float, where: str) -> None:
    assert actual.shape == expected.shape, where
    scale = max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=where)


def test_the_comparison_notices_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(step: Any) -> dict[int, str]:
        return {0: step.add("Mul", [step.g, step.number(1.001)])}

    monkeypatch.setitem(RULES, "Neg", wrong)
    with pytest.raises(AssertionError, match="dx, cpu, batch 1"):
        assert_as_autograd(one_node("Neg", [4]), torch.neg, lambda n: normal(n, 4))


def test_an_operator_without_a_rule_is_refused_by_name_and_nothing_is_written() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("Det", ["h"], ["d"]),
        helper.make_node("Neg", ["d"], ["y"]),
    ]
    graph = Graph.from_model(model_of(nodes, {"x": ["N", 3, 3]}, ["y"], {}))
    before = (len(graph.nodes), set(graph.initializers))
    with pytest.raises(UnsupportedOperator, match=r"Det.*'d'.*RULES") as refused:
        graph.backward({"y": "y"}, "x")
    assert (refused.value.op_type, refused.value.output) == ("Det", "d")
    assert (len(graph.nodes), set(graph.initializers)) == before
    assert graph.backward({"y": "y"}, "d"), "behind it the gradient can be taken"
