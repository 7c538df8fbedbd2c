"""Activations and arithmetic against autograd; slopes at kinks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from test_backward_harness import (
    LOWERINGS,
    Array,
    assert_as_autograd,
    differentiated,
    model_of,
    normal,
    one_node,
    run,
)
from torch import Tensor
from torch.nn import functional as F

from training.export.backward import Graph, Lowering, UnsupportedOperator

REAL = np.float32

FUNCTIONS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "relu": ("Relu", (), {}, F.relu),
    "leaky relu": ("LeakyRelu", (), {"alpha": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    "elu": ("Elu", (), {"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    "clip": ("Clip", (REAL(-0.5), REAL(1.0)), {}, lambda x: x.clamp(-0.5, 1.0)),
    "clip below": ("Clip", (REAL(-0.5),), {}, lambda x: x.clamp(min=-0.5)),
    "clip above": ("Clip", (None, REAL(0.5)), {}, lambda x: x.clamp(max=0.5)),
    "hard sigmoid": (
        "HardSigmoid", (), {"alpha": 0.5, "beta": 0.4}, lambda x: (x * 0.5 + 0.4).clamp(0, 1),
    ),
    "hard swish": ("HardSwish", (), {}, F.hardswish),
    "abs": ("Abs", (), {}, torch.abs),
    "sigmoid": ("Sigmoid", (), {}, torch.sigmoid),
    "tanh": ("Tanh", (), {}, torch.tanh),
    "softplus": ("Softplus", (), {}, F.softplus),
    "erf": ("Erf", (), {}, torch.erf),
    "gelu": ("Gelu", (), {}, F.gelu),
    "gelu by tanh": ("Gelu", (), {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
    "exp": ("Exp", (), {}, torch.exp),
    "neg": ("Neg", (), {}, torch.neg),
    "identity": ("Identity", (), {}, lambda x: x),
    "dropout": ("Dropout", (REAL(0.5),), {}, lambda x: x),
    "square": ("Pow", (REAL(2),), {}, torch.square),
    "cube, integer exponent": ("Pow", (np.int64(3),), {}, lambda x: x**3),
    "powers": ("Pow", (np.array([1, 2, 3, 4], REAL),), {}, lambda x: x ** torch.arange(1, 5)),
}  # fmt: skip
POSITIVE: dict[str, tuple[str, tuple[Any, ...], Callable[[Tensor], Tensor]]] = {
    "log": ("Log", (), torch.log),
    "sqrt": ("Sqrt", (), torch.sqrt),
    "reciprocal": ("Reciprocal", (), torch.reciprocal),
    "power": ("Pow", (REAL(-1.5),), lambda x: x**-1.5),
}


def stretched(batch: int) -> Array:
    """Values on all pieces of hard swish, sigmoid and clip."""
    return 3 * normal(batch, 5, 4)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_function(case: str) -> None:
    op_type, constants, attributes, reference = FUNCTIONS[case]
    model = one_node(op_type, [5, 4], *constants, **attributes)
    assert_as_autograd(model, reference, stretched)


@pytest.mark.parametrize("case", POSITIVE)
def test_function_of_positive_numbers(case: str) -> None:
    op_type, constants, reference = POSITIVE[case]
    model = one_node(op_type, [5, 4], *constants)
    assert_as_autograd(model, reference, lambda n: np.abs(stretched(n)) + REAL(0.3))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_relu_mask_is_sharp(lowering: Lowering) -> None:
    """Zero at and below 0, one above it: smallest normal, huge and infinite numbers too."""
    x = np.array([[0, -0.0, -1, -1e-38, -np.inf, 1.2e-38, 1e-30, 1, 3e38, np.inf]], REAL)
    y, dx = run(differentiated(one_node("Relu", [10]), lowering), {"x": x})
    np.testing.assert_array_equal(dx[0, :5], 0)
    np.testing.assert_allclose(dx[0, 5:], np.tanh(y[0, 5:]) + 0.5, rtol=1e-6)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_slopes_at_kinks_are_those_of_torch(lowering: Lowering) -> None:
    for op_type, constants, reference, kinks in (
        ("LeakyRelu", (), F.leaky_relu, [0]),
        ("Clip", (REAL(0), REAL(6)), F.relu6, [0, 6]),
        ("Clip", (REAL(-1), REAL(1)), F.hardtanh, [-1, 1]),
        ("Abs", (), torch.abs, [0]),
    ):
        x = np.array([kinks], REAL)
        _, dx = run(differentiated(one_node(op_type, [len(kinks)], *constants), lowering), {"x": x})
        leaf = torch.from_numpy(x).requires_grad_()
        y = reference(leaf)
        y.backward(torch.tanh(y.detach()) + 0.5)
        assert leaf.grad is not None
        np.testing.assert_allclose(dx, leaf.grad, rtol=1e-6, err_msg=op_type)


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div,
    "Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add,
}  # fmt: skip
# Shape of x behind the batch, shape of the constant: either may be the one broadcast.
SIDES = {
    "equal": ([2, 3], (1, 2, 3)),
    "scalar": ([2, 3], ()),
    "constant is narrow": ([2, 3], (3,)),
    "x is narrow": ([1, 3], (2, 1)),
    "x has fewer axes": ([3], (2, 1, 3)),
}


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("op_type", BINARY)
def test_arithmetic_with_a_constant(op_type: str, sides: str, position: int) -> None:
    shape, constant_shape = SIDES[sides]
    constant = (normal(*constant_shape, seed=1) + REAL(3)).astype(REAL)
    model = one_node(op_type, shape, constant, position=position)
    function = BINARY[op_type]

    def reference(x: Tensor) -> Tensor:
        c = torch.from_numpy(np.asarray(constant)).double()
        return function(c, x) if position else function(x, c)

    # away from zero for Div, on both sides of the constant for Max and Min
    assert_as_autograd(model, reference, lambda n: normal(n, *shape) * REAL(0.6) + REAL(3))


@pytest.mark.parametrize("op_type", BINARY)
def test_arithmetic_of_two_paths(op_type: str) -> None:
    """x meets its own mean over symbolic axes: broadcasting known only when the graph runs."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node(op_type, ["m", "x"], ["y"]),
    ]
    constants = {"axes": np.array([2])}
    model = model_of(nodes, {"x": ["N", 3, "T"]}, ["y"], constants)
    assert_as_autograd(
        model,
        lambda x: BINARY[op_type](x.mean(2, keepdim=True), x),
        lambda n: normal(n, 3, 5) + REAL(4),
    )


def test_broadcasting_between_symbols_of_unknown_relation() -> None:
    """x (N, 1 at run time, 3) against a second input of length T."""
    node = helper.make_node("Mul", ["x", "other"], ["y"])
    model = model_of([node], {"x": ["N", "S", 3], "other": ["N", "T", 3]}, ["y"], {})
    x, other = normal(2, 1, 3), normal(2, 4, 3, seed=1)
    for lowering in LOWERINGS:
        y, dx = run(differentiated(model, lowering), {"x": x, "other": other})
        np.testing.assert_allclose(
            dx, ((np.tanh(y) + 0.5) * other).sum(1, keepdims=True), rtol=1e-5
        )
        y, dx = run(differentiated(model, lowering), {"x": other, "other": other})
        np.testing.assert_allclose(dx, (np.tanh(y) + 0.5) * other, rtol=1e-5)


def test_equal_maxima_share_the_cotangent_as_in_torch() -> None:
    model = one_node("Max", [2], np.array([1, 2], REAL))
    x = np.array([[1, 0], [1, 2], [5, 5]], REAL)
    _, dx = run(differentiated(model, "cpu"), {"x": x})
    leaf = torch.from_numpy(x).requires_grad_()
    y = torch.maximum(leaf, torch.tensor([1.0, 2.0]))
    y.backward(torch.tanh(y.detach()) + 0.5)
    assert leaf.grad is not None
    np.testing.assert_allclose(dx, leaf.grad, rtol=1e-6)


@pytest.mark.parametrize("position", [1, 2])
def test_where(position: int) -> None:
    condition = normal(5, 4) > 0
    other = normal(1, 4)
    inputs = ["c", "x", "o"] if position == 1 else ["c", "o", "x"]
    node = helper.make_node("Where", inputs, ["y"])
    model = model_of([node], {"x": ["N", 1, 4]}, ["y"], {"c": condition, "o": other})

    def reference(x: Tensor) -> Tensor:
        c, o = torch.from_numpy(condition), torch.from_numpy(other).double()
        return torch.where(c, x, o) if position == 1 else torch.where(c, o, x)

    assert_as_autograd(model, reference, lambda n: normal(n, 1, 4))


def test_a_condition_computed_from_x_carries_no_gradient() -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["c"]),
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Where", ["c", "x", "e"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 6]}, ["y"], {"zero": REAL(0)})
    assert_as_autograd(model, lambda x: torch.where(x > 0, x, x.exp()), lambda n: normal(n, 6))


def test_half_precision_keeps_its_type() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=10),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Mul", ["r", "two"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=1),
    ]
    model = model_of(nodes, {"x": ["N", 6]}, ["y"], {"two": np.float16(2)})
    assert_as_autograd(model, lambda x: F.relu(x) * 2, lambda n: normal(n, 6), tolerance=2e-3)


def test_exponents_must_be_constant() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Pow", ["e", "x"], ["y"])]
    graph = Graph.from_model(model_of(nodes, {"x": ["N", 3]}, ["y"], {}))
    before = len(graph.nodes)
    with pytest.raises(UnsupportedOperator, match=r"Pow.*'y'.*exponent must be constant"):
        graph.backward({"y": "y"}, "x")
    assert len(graph.nodes) == before


def test_dropout_in_training_is_refused() -> None:
    graph = Graph.from_model(one_node("Dropout", [4], REAL(0.5), np.True_))
    with pytest.raises(UnsupportedOperator, match=r"Dropout.*'y'.*eval mode"):
        graph.backward({"y": "y"}, "x")
