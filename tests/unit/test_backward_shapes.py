"""Operators that move, pick or reduce elements, against autograd."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from test_backward_harness import Array, assert_as_autograd, model_of, normal, one_node
from torch import Tensor
from torch.nn import functional as F

from training.export.backward import Graph, UnsupportedOperator


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


Reference = Callable[[Tensor], Tensor]
FAR = np.iinfo(np.int64).max
# operator, shape of x behind the batch, constants, attributes, reference
MOVES: dict[str, tuple[str, list[int], tuple[Any, ...], dict[str, Any], Reference]] = {
    "reshape": ("Reshape", [4, 6], (ints(-1, 3, 8),), {}, lambda x: x.reshape(-1, 3, 8)),
    "reshape, kept batch": ("Reshape", [4, 6], (ints(0, 24),), {}, lambda x: x.flatten(1)),
    "reshape into rows": ("Reshape", [4, 6], (ints(-1, 6),), {}, lambda x: x.reshape(-1, 6)),
    "flatten": ("Flatten", [2, 3, 4], (), {"axis": 1}, lambda x: x.flatten(1)),
    "squeeze": ("Squeeze", [1, 3, 1], (ints(1, 3),), {}, lambda x: x.squeeze(3).squeeze(1)),
    "unsqueeze": ("Unsqueeze", [3], (ints(1, -1),), {}, lambda x: x[:, None, :, None]),
    "transpose": (
        "Transpose",
        [2, 3, 4],
        (),
        {"perm": [0, 3, 1, 2]},
        lambda x: x.permute(0, 3, 1, 2),
    ),
    "transpose, reversed": ("Transpose", [2, 3], (), {}, lambda x: x.permute(2, 1, 0)),
    "transpose, batch inside": (
        "Transpose",
        [2, 3],
        (),
        {"perm": [1, 0, 2]},
        lambda x: x.transpose(0, 1),
    ),
    "expand": ("Expand", [1, 3], (ints(1, 4, 3),), {}, lambda x: x.expand(-1, 4, 3)),
    "expand, new axis": (
        "Expand",
        [2, 1],
        (ints(5, 1, 2, 4),),
        {},
        lambda x: x.expand(5, -1, 2, 4),
    ),
    "slice": ("Slice", [5, 6], (ints(1), ints(3), ints(1)), {}, lambda x: x[:, 1:3]),
    "slice from the end": (
        "Slice",
        [5, 6],
        (ints(-3), ints(FAR), ints(-1)),
        {},
        lambda x: x[..., -3:],
    ),
    "slice two axes": (
        "Slice",
        [5, 6],
        (ints(1, -4), ints(9, -1), ints(1, 2)),
        {},
        lambda x: x[:, 1:, -4:-1],
    ),
    "slice by stride": (
        "Slice",
        [5, 6],
        (ints(1), ints(FAR), ints(2), ints(2)),
        {},
        lambda x: x[..., 1::2],
    ),
    "slice backwards": (
        "Slice",
        [5, 6],
        (ints(-1), ints(-FAR), ints(1), ints(-1)),
        {},
        lambda x: x.flip(1),
    ),
    "slice the last of the batch": (
        "Slice",
        [5],
        (ints(-1), ints(FAR), ints(0)),
        {},
        lambda x: x[-1:],
    ),
    "gather one": ("Gather", [5, 6], (np.int64(2),), {"axis": 1}, lambda x: x[:, 2]),
    "gather the last": ("Gather", [5, 6], (np.int64(-1),), {"axis": 1}, lambda x: x[:, -1]),
    "gather some": (
        "Gather",
        [5, 6],
        (ints(3, 0, 3, -1),),
        {"axis": 2},
        lambda x: x[..., [3, 0, 3, -1]],
    ),
    "gather by tuples": (
        "GatherND",
        [5, 6],
        (np.array([[0, 2], [0, -1], [0, 2]]),),
        {},
        lambda x: x[[0, 0, 0], [2, -1, 2]],
    ),
    "gather a table": (
        "Gather",
        [5, 6],
        (np.array([[0, 1], [1, -2]]),),
        {"axis": 1},
        lambda x: x[:, torch.tensor([[0, 1], [1, -2]])],
    ),
    "gather in the batch": ("Gather", [3], (np.int64(0),), {"axis": 0}, lambda x: x[0]),
    "pad": ("Pad", [4, 5], (ints(0, 1, 2, 0, 3, 0),), {}, lambda x: F.pad(x, (2, 0, 1, 3))),
    "pad and cut": (
        "Pad",
        [4, 5],
        (ints(0, -1, 2, 0, 0, -3),),
        {},
        lambda x: F.pad(x, (2, -3, -1, 0)),
    ),
    "pad one axis": (
        "Pad",
        [4, 5],
        (ints(1, 2), np.float32(7), ints(1)),
        {},
        lambda x: F.pad(x, (0, 0, 1, 2), value=7),
    ),
}


@pytest.mark.parametrize("case", MOVES)
def test_move(case: str) -> None:
    op_type, shape, constants, attributes, reference = MOVES[case]
    model = one_node(op_type, shape, *constants, **attributes)
    assert_as_autograd(model, reference, lambda n: normal(n, *shape))


# The same with a symbolic length T = 5, known only when the graph runs.
SYMBOLIC: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], Reference]] = {
    "reshape": ("Reshape", (ints(0, -1),), {}, lambda x: x.flatten(1)),
    "flatten": ("Flatten", (), {"axis": 2}, lambda x: x.flatten(0, 1)),
    "slice": ("Slice", (ints(1), ints(FAR), ints(1)), {}, lambda x: x[:, 1:]),
    "slice all but the last": ("Slice", (ints(0), ints(-1), ints(1)), {}, lambda x: x[:, :-1]),
    "slice by stride": ("Slice", (ints(0), ints(FAR), ints(1), ints(2)), {}, lambda x: x[:, ::2]),
    "gather the last": ("Gather", (np.int64(-1),), {"axis": 1}, lambda x: x[:, -1]),
    "gather some": ("Gather", (ints(0, -1, 0),), {"axis": 1}, lambda x: x[:, [0, -1, 0]]),
    "mean": ("ReduceMean", (ints(1),), {"keepdims": 0}, lambda x: x.mean(1)),
    "sum": ("ReduceSum", (ints(1),), {}, lambda x: x.sum(1, keepdim=True)),
}  # fmt: skip


@pytest.mark.parametrize("case", SYMBOLIC)
def test_move_of_symbolic_length(case: str) -> None:
    op_type, constants, attributes, reference = SYMBOLIC[case]
    model = one_node(op_type, ["T", 4], *constants, **attributes)
    assert_as_autograd(model, reference, lambda n: normal(n, 5, 4))


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("axes", [[1], [-1], [2, 1], [1, 2, 3], None], ids=str)
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_reduction(op_type: str, axes: list[int] | None, keep: bool) -> None:
    constants = () if axes is None else (ints(*axes),)
    model = one_node(op_type, [3, 4, 2], *constants, keepdims=int(keep))
    all_axes = [0, 1, 2, 3] if axes is None else axes
    assert_as_autograd(
        model, lambda x: REDUCTIONS[op_type](x, all_axes, keep), lambda n: normal(n, 3, 4, 2)
    )


def test_a_reduction_over_no_axes_changes_nothing() -> None:
    model = one_node("ReduceMean", [3], ints(), noop_with_empty_axes=1)
    assert_as_autograd(model, lambda x: x * 1, lambda n: normal(n, 3))


def test_equal_extremes_share_the_cotangent_as_in_torch() -> None:
    model = one_node("ReduceMax", [4], ints(1))
    tied = np.array([[1, 2, 2, 0], [3, 3, 3, 3]], np.float32)
    assert_as_autograd(model, lambda x: x.amax(1, keepdim=True), lambda _: tied, batches=[2])


def test_the_length_of_nothing_has_gradient_zero_as_in_torch() -> None:
    model = one_node("ReduceL2", [4], ints(1))
    zeros = np.array([[0, 0, 0, 0], [3, 0, 4, 0]], np.float32)
    assert_as_autograd(
        model,
        lambda x: torch.linalg.vector_norm(x, 2, 1, True),
        lambda _: zeros,
        batches=[2],
    )


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("length", [4, "T"])
def test_concat_of_the_input_with_itself_and_constants(axis: int, length: int | str) -> None:
    """Like a dense block: x, a function of x and x again, with a constant between."""
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Mul", ["x", "zero"], ["c"]),
        helper.make_node("Concat", ["x", "c", "e", "x"], ["y"], axis=axis),
    ]
    constants = {"zero": np.float32(0)}
    model = model_of(nodes, {"x": ["N", length, 3]}, ["y"], constants)
    assert_as_autograd(
        model, lambda x: torch.cat([x, 0 * x, x.exp(), x], axis), lambda n: normal(n, 4, 3)
    )


def test_concat_along_the_batch() -> None:
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Concat", ["x", "e"], ["y"], axis=0),
    ]
    model = model_of(nodes, {"x": ["N", 3]}, ["y"], {})
    assert_as_autograd(model, lambda x: torch.cat([x, x.exp()]), lambda n: normal(n, 3))


@pytest.mark.parametrize("used", [[0, 1, 2], [2, 0], [1]], ids=str)
def test_split_of_which_some_parts_are_used(used: list[int]) -> None:
    names = ["s0", "s1", "s2"]
    nodes = [
        helper.make_node("Split", ["x", "sizes"], names, axis=1),
        *(helper.make_node("ReduceSum", [names[i], "axes"], [f"r{i}"]) for i in used),
        helper.make_node("Sum", [f"r{i}" for i in used], ["y"]),
    ]
    constants = {"sizes": ints(1, 2, 3), "axes": ints(1)}
    model = model_of(nodes, {"x": ["N", 6, 2]}, ["y"], constants)

    def reference(x: Tensor) -> Tensor:
        parts = x.split([1, 2, 3], 1)
        return torch.stack([parts[i].sum(1, keepdim=True) for i in used]).sum(0)

    assert_as_autograd(model, reference, lambda n: normal(n, 6, 2))


def test_split_into_a_number_of_parts() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=-1, num_outputs=2),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", "T", 6]}, ["y"], {})
    assert_as_autograd(model, lambda x: x[..., :3] * x[..., 3:], lambda n: normal(n, 4, 6))


def test_elements_picked_by_the_argument_of_the_maximum() -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1),
        helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1),
    ]
    model = model_of(nodes, {"x": ["N", 6]}, ["y"], {})
    assert_as_autograd(model, lambda x: x.amax(1, keepdim=True), lambda n: normal(n, 6))


def test_rows_picked_by_computed_indices() -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["i"], axis=0, keepdims=0),
        helper.make_node("Gather", ["x", "i"], ["y"], axis=0),
    ]
    model = model_of(nodes, {"x": ["N", 4]}, ["y"], {})
    assert_as_autograd(model, lambda x: x[x.argmax(0)], lambda n: normal(n, 4))


def test_a_shape_computed_from_x_carries_no_gradient() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Concat", ["s", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 2, 3]}, ["y"], {"rest": ints(6)})
    assert_as_autograd(model, lambda x: x.flatten(1), lambda n: normal(n, 2, 3))


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_other_padding_is_refused(mode: str) -> None:
    graph = Graph.from_model(one_node("Pad", [4], ints(0, 1, 0, 1), mode=mode))
    with pytest.raises(UnsupportedOperator, match=f"Pad.*'y'.*mode={mode}"):
        graph.backward({"y": "y"}, "x")
