"""Cotangents of operators that pick, cut or surround elements: g goes back where they stood.

Positions are computed in the graph, by doing to the numbers 0, 1, 2, ... what the operator does
to the elements: whatever is constant is folded, and sizes need not be known.
"""

from collections.abc import Sequence

import numpy as np

from training.export.backward.extents import length, shape_of, zeros_like
from training.export.backward.step import Cotangents, Step


def slice_(step: Step) -> Cotangents:
    """y = x[start:end:stride] along some axes: g at those positions, zero between and around."""
    count = step.dims(step.input(1))[0]
    if not isinstance(count, int):
        raise step.refusal("the number of its axes is not known")
    axes = _integers(step, 3, range(count))
    strides = _integers(step, 4, [1] * count)
    g = step.g
    for i, (axis, stride) in enumerate(zip(axes, strides, strict=True)):
        axis %= step.rank(step.x)
        begin, end = (_element(step, step.input(position), i) for position in (1, 2))
        first_axis = step.integers([0])
        inputs = [_numbered(step, axis), begin, end, first_axis, step.integers([stride])]
        g = _placed(step, g, axis, step.add("Slice", inputs), contiguous=stride == 1)
    return {0: g}


def gather(step: Step) -> Cotangents:
    """y = x[..., indices, ...] along one axis: g at the indices, added up where they repeat."""
    if step.wanted != {0}:
        raise step.refusal("its indices depend on the wanted tensor")
    axis = step.attribute("axis", 0) % step.rank(step.x)
    rank = step.rank(step.input(1))
    flat = step.add("Reshape", [step.input(1), step.integers([-1])])
    positions = step.add("Gather", [_numbered(step, axis), flat], axis=0)
    g = step.g
    if rank != 1:
        before = step.add("Shape", [g], end=axis)
        after = step.add("Shape", [g], start=axis + rank)
        shape = step.add("Concat", [before, step.integers([-1]), after], axis=0)
        g = step.add("Reshape", [g, shape])
    return {0: _placed(step, g, axis, positions, contiguous=rank == 0)}


def gather_elements(step: Step) -> Cotangents:
    """y[i] = x[indices[i]] along one axis: g at the indices, added up where they repeat."""
    inputs = [zeros_like(step, step.x), step.input(1), step.g]
    axis = step.attribute("axis", 0)
    return {0: step.add("ScatterElements", inputs, axis=axis, reduction="add")}


def gather_nd(step: Step) -> Cotangents:
    """y[i] = x[indices[i, 0], indices[i, 1], ...]: g at the indices, added up where they repeat."""
    if step.wanted != {0}:
        raise step.refusal("its indices depend on the wanted tensor")
    if step.attribute("batch_dims", 0):
        raise step.refusal("batch_dims is not known; write the batch's positions as indices")
    inputs = [zeros_like(step, step.x), step.input(1), step.g]
    return {0: step.add("ScatterND", inputs, reduction="add")}


def pad(step: Step) -> Cotangents:
    """x with zeros around it, or cut where the padding is negative: the opposite, done to g."""
    mode = step.attribute("mode", "constant")
    if mode != "constant":
        raise step.refusal(f"mode={mode}; pad with a constant")
    if step.wanted != {0}:
        raise step.refusal("its padding value depends on the wanted tensor")
    opposite = step.add("Neg", [step.input(1)])
    axes = ["", step.input(3)] if step.input(3) else []
    return {0: step.add("Pad", [step.g, opposite, *axes])}


def _placed(step: Step, g: str, axis: int, positions: str, *, contiguous: bool) -> str:
    """Zeros as long as x along the axis, with g at the positions; other axes stay as they are."""
    size = length(step, step.x, axis)
    if contiguous:
        before = _element(step, positions, 0)
        covered = step.add("Add", [before, step.add("Shape", [positions])])
        around = step.add("Concat", [before, step.add("Sub", [size, covered])], axis=0)
        return step.add("Pad", [g, around, "", step.integers([axis])])
    left, right = step.add("Shape", [g], end=axis), step.add("Shape", [g], start=axis + 1)
    shape = step.add("Concat", [left, size, right], axis=0)
    zeros = step.add("Expand", [step.number(0.0), shape])
    behind = step.rank(step.x) - axis - 1
    column = step.add("Reshape", [positions, step.integers([-1, *[1] * behind])])
    indices = step.add("Expand", [column, shape_of(step, g)])
    return step.add("ScatterElements", [zeros, indices, g], axis=axis, reduction="add")


def _numbered(step: Step, axis: int) -> str:
    """0, 1, 2, ... along an axis of x."""
    size = step.add("Squeeze", [length(step, step.x, axis)])
    zero, one = (step.graph.constant(np.int64(n)) for n in (0, 1))
    return step.add("Range", [zero, size, one])


def _element(step: Step, vector: str, index: int) -> str:
    """One element of a vector of integers, as a vector of one."""
    begin, end = step.integers([index]), step.integers([index + 1])
    return step.add("Slice", [vector, begin, end, step.integers([0])])


def _integers(step: Step, position: int, default: Sequence[int]) -> list[int]:
    """What an optional input holds, which must be constant."""
    if not step.input(position):
        return list(default)
    values = step.graph.value(step.input(position))
    if values is None:
        raise step.refusal("its axes and steps must be constant")
    return [int(value) for value in values]
