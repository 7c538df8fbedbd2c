"""Matrix products, softmax and normalisations against autograd."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from onnx import helper
from test_backward_harness import assert_as_autograd, model_of, normal, one_node
from torch import Tensor
from torch.nn import functional as F

from training.export.backward import Graph, UnsupportedOperator

REAL = np.float32


def double(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).double()


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_gemm_with_constant_weights(turned: int, alpha: float) -> None:
    weights, bias = normal(4, 6), normal(4)
    stored = weights if turned else np.ascontiguousarray(weights.T)
    model = one_node("Gemm", [6], stored, bias, transB=turned, alpha=alpha, beta=2.0)
    assert_as_autograd(
        model,
        lambda x: alpha * F.linear(x, double(weights)) + 2 * double(bias),
        lambda n: normal(n, 6),
    )


@pytest.mark.parametrize("turned_a", [0, 1])
@pytest.mark.parametrize("turned_b", [0, 1])
def test_gemm_of_three_paths(turned_a: int, turned_b: int) -> None:
    """A = x or its transpose, B = exp of either, C = mean of x: all three lead to x."""
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Transpose", ["e"], ["t"], perm=[1, 0]),
        helper.make_node("ReduceMean", ["x", "axes"], ["c"], keepdims=1),
        helper.make_node(
            "Gemm", ["x", "t" if turned_a == turned_b else "e", "c"], ["y"],
            transA=turned_a, transB=turned_b, alpha=0.5, beta=3.0,
        ),
    ]  # fmt: skip
    axes = np.array([1 if not turned_a else 0])
    model = model_of(nodes, {"x": ["N", 5]}, ["y"], {"axes": axes})

    def reference(x: Tensor) -> Tensor:
        a = x.T if turned_a else x
        b = x.exp().T if turned_a == turned_b else x.exp()
        b = b.T if turned_b else b
        return 0.5 * a @ b + 3 * x.mean(int(axes[0]), keepdim=True)

    if turned_a:  # then C has one row, which fits the product's columns only for a square one
        assert_as_autograd(model, reference, lambda _: normal(5, 5), batches=[5])
    else:
        assert_as_autograd(model, reference, lambda n: normal(n, 5))


# Shape of x behind the batch, shape of the constant, position of x.
PRODUCTS: dict[str, tuple[Sequence[int | str], tuple[int, ...], int]] = {
    "matrix on the right": ([3, 5], (5, 4), 0),
    "rows only": ([5], (5, 4), 0),
    "matrix on the left": ([5, 3], (4, 5), 1),
    "batch on the right": ([3, 5], (1, 5, 4), 0),
    "heads on the right": ([1, 3, 5], (2, 5, 4), 0),
    "heads on the left": ([1, 5, 3], (2, 4, 5), 1),
    "vector on the right": ([3, 5], (5,), 0),
    "symbolic length": (["T", 5], (5, 4), 0),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_product_with_a_constant(case: str) -> None:
    shape, constant_shape, position = PRODUCTS[case]
    constant = normal(*constant_shape)
    model = one_node("MatMul", shape, constant, position=position)
    sizes = [6 if isinstance(size, str) else size for size in shape]

    def reference(x: Tensor) -> Tensor:
        return double(constant) @ x if position else x @ double(constant)

    assert_as_autograd(model, reference, lambda n: normal(n, *sizes))


def test_product_of_two_paths() -> None:
    """Attention's x x^T with a symbolic length."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("Tanh", ["t"], ["h"]),
        helper.make_node("MatMul", ["x", "h"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 2, "T", 4]}, ["y"], {})
    assert_as_autograd(model, lambda x: x @ x.mT.tanh(), lambda n: normal(n, 2, 5, 4))


def test_products_of_vectors_are_refused() -> None:
    node = helper.make_node("MatMul", ["c", "x"], ["y"])
    graph = Graph.from_model(model_of([node], {"x": ["N", 4]}, ["y"], {"c": normal(3)}))
    with pytest.raises(UnsupportedOperator, match=r"MatMul.*'y'.*reshape"):
        graph.backward({"y": "y"}, "x")


@pytest.mark.parametrize("image", [(), (6,), (4, 5)])
def test_batch_normalization(image: tuple[int, ...]) -> None:
    scale, bias, mean = normal(3, seed=1), normal(3, seed=2), normal(3, seed=3)
    variance = np.abs(normal(3, seed=4)) + REAL(0.5)
    model = one_node("BatchNormalization", [3, *image], scale, bias, mean, variance, epsilon=1e-3)

    def reference(x: Tensor) -> Tensor:
        statistics = map(double, (mean, variance, scale, bias))
        return F.batch_norm(x, *statistics, training=False, eps=1e-3)

    assert_as_autograd(model, reference, lambda n: normal(n, 3, *image))


@pytest.mark.parametrize("axis", [-1, 2, 1])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_normalization(axis: int, biased: bool) -> None:
    shape = (3, 4) if axis == 1 else (4,)
    constants = [normal(*shape, seed=1)] + ([normal(*shape, seed=2)] if biased else [])
    model = one_node("LayerNormalization", [3, 4], *constants, axis=axis, epsilon=1e-2)
    assert_as_autograd(
        model,
        lambda x: F.layer_norm(x, shape, *map(double, constants), eps=1e-2),
        lambda n: normal(n, 3, 4),
    )


def test_layer_normalization_of_a_sequence_of_symbolic_length() -> None:
    model = one_node("LayerNormalization", ["T", 6], normal(6))
    assert_as_autograd(
        model, lambda x: F.layer_norm(x, (6,), double(normal(6))), lambda n: normal(n, 5, 6)
    )


@pytest.mark.parametrize("image", [(7,), (3, 4)])
def test_instance_normalization(image: tuple[int, ...]) -> None:
    scale, bias = normal(3, seed=1), normal(3, seed=2)
    model = one_node("InstanceNormalization", [3, *image], scale, bias, epsilon=1e-2)
    assert_as_autograd(
        model,
        lambda x: F.instance_norm(x, weight=double(scale), bias=double(bias), eps=1e-2),
        lambda n: normal(n, 3, *image),
    )


@pytest.mark.parametrize("axis", [None, 1, -1, 2])
@pytest.mark.parametrize(
    ("op_type", "function"), [("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax)]
)
def test_softmax(op_type: str, function: Callable[..., Tensor], axis: int | None) -> None:
    model = one_node(op_type, ["T", 5], **({} if axis is None else {"axis": axis}))
    reference_axis = -1 if axis is None else axis
    assert_as_autograd(model, lambda x: function(x, reference_axis), lambda n: 3 * normal(n, 4, 5))
