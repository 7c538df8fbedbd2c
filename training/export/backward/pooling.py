"""Cotangents of local pooling."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from training.export.backward.convolution import Geometry, transposed, window
from training.export.backward.expressions import Term, terms
from training.export.backward.extents import shaped_like, zeros_like
from training.export.backward.loading import Dim
from training.export.backward.step import Cotangents, Step


def max_pool(step: Step) -> Cotangents:
    """y = largest x of each window; g goes to where it stands.

    Where several tie, as on a plain background, the first takes all, as in torch: shared, the
    signs behind a constant area would differ.  Windows that tile the image: by comparing, which
    saves a gather over the whole batch.  Other windows: by the operator's own indices.
    """
    geometry = window(step, tuple(step.attribute("kernel_shape", ())))
    return {0: _to_first(step, geometry) if _tiles(step, geometry) else _to_indices(step)}


def average_pool(step: Step) -> Cotangents:
    """y = mean of each window over n pixels: each of them gets g / n, summed over windows."""
    geometry = window(step, tuple(step.attribute("kernel_shape", ())))
    share = (Term(step, step.g) / Term(step, _divisor(step, geometry))).name
    if _tiles(step, geometry):
        return {0: magnified(step, share, geometry.kernel)}
    channels = step.dims(step.x)[1]
    if not isinstance(channels, int):
        raise step.refusal("its number of channels must be known; export with static channels")
    ones = step.graph.constant(np.ones((channels, 1, *geometry.kernel), step.real_type()))
    return {0: transposed(step, ones, geometry, share, channels)}


def resize(step: Step) -> Cotangents:
    """Every pixel repeated f times (nearest neighbour, whole f): g summed over its copies."""
    factors = _repetitions(step)
    mean = step.add("AveragePool", [step.g], kernel_shape=factors[2:], strides=factors[2:])
    return {0: (Term(step, mean) * float(math.prod(factors))).name}


def _repetitions(step: Step) -> list[int]:
    """How often each pixel of x stands in y along every axis; refuses other ways to resize."""
    how = (
        step.attribute("coordinate_transformation_mode", "half_pixel"),
        step.attribute("nearest_mode", "round_prefer_floor"),
    )
    repeats = how == ("asymmetric", "floor") or (how[0] == "half_pixel" and "round" in how[1])
    sizes = list(zip(step.dims(step.y), step.dims(step.x), strict=True))[2:]
    whole = [y // x for y, x in sizes if isinstance(y, int) and isinstance(x, int) and not y % x]
    if step.attribute("mode", "nearest") != "nearest" or not repeats or len(whole) < len(sizes):
        raise step.refusal("only nearest-neighbour magnification by known whole factors is known")
    return [1, 1, *whole]


def magnified(step: Step, maps: str, factors: Sequence[int]) -> str:
    """Every pixel repeated `factors` times along each axis behind the channels."""
    scales = step.graph.constant(np.asarray([1, 1, *factors], np.float32))
    return step.add(
        "Resize",
        [maps, "", scales],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _tiles(step: Step, geometry: Geometry) -> bool:
    """Whether every pixel of the image is in exactly one window."""
    sizes = step.dims(step.x)[2:]
    return (
        geometry.strides == geometry.kernel
        and set(geometry.dilations) == {1}
        and not any((*geometry.before, *geometry.after))
        and all(
            isinstance(size, int) and size % kernel == 0
            for size, kernel in zip(sizes, geometry.kernel, strict=True)
        )
    )


def _to_first(step: Step, geometry: Geometry) -> str:
    """g to the first pixel, row by row, that equals the largest of its window.

    Each pixel that does takes its rank, n for a window's first down to 1 for its last, the
    others 0: the largest rank of a window is that of one pixel.
    """
    x, _, g = terms(step)
    hits = x.equals(Term(step, magnified(step, step.y, geometry.kernel)))
    ranks = hits * Term(step, step.graph.constant(_ranks(step, geometry)))
    size = {"kernel_shape": geometry.kernel, "strides": geometry.strides}
    best = magnified(step, ranks.to("MaxPool", **size).name, geometry.kernel)
    first = ranks.equals(Term(step, best))
    return (first * Term(step, magnified(step, g.name, geometry.kernel))).name


def _ranks(step: Step, geometry: Geometry) -> NDArray[np.floating]:
    """(H, W, ...): n, n - 1, ..., 1 in every window of n pixels."""
    window_ranks = np.arange(math.prod(geometry.kernel), 0, -1).reshape(geometry.kernel)
    sizes = [size for size in step.dims(step.x)[2:] if isinstance(size, int)]
    repeats = [size // kernel for size, kernel in zip(sizes, geometry.kernel, strict=True)]
    return np.tile(window_ranks, repeats).astype(step.real_type())


def _to_indices(step: Step) -> str:
    """g added up at the indices of the largest pixels, flat over the whole batch."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in step.node.attribute}
    _, indices = step.graph.add_node("MaxPool", [step.x], 2, **attributes)
    flat = step.integers([-1])
    zeros = step.add("Reshape", [zeros_like(step, step.x), flat])
    where, what = (step.add("Reshape", [tensor, flat]) for tensor in (indices, step.g))
    total = step.add("ScatterElements", [zeros, where, what], axis=0, reduction="add")
    return shaped_like(step, total, step.x)


def _divisor(step: Step, geometry: Geometry) -> str:
    """Pixels of each window: a scalar, or one number a position where windows are cut off."""
    padded = any((*geometry.before, *geometry.after))
    if not step.attribute("ceil_mode", 0) and (
        not padded or step.attribute("count_include_pad", 0)
    ):
        return step.number(float(math.prod(geometry.kernel)))
    sizes, positions = step.dims(step.x)[2:], step.dims(step.y)[2:]
    lengths = [
        _lengths(step, geometry, axis, size, count)
        for axis, (size, count) in enumerate(zip(sizes, positions, strict=True))
    ]
    return step.graph.constant(np.asarray(math.prod(np.ix_(*lengths)), step.real_type()))


def _lengths(step: Step, geometry: Geometry, axis: int, size: Dim, count: Dim) -> NDArray[np.int64]:
    """Pixels of each window along one axis, padding counted if the operator counts it."""
    if not isinstance(size, int) or not isinstance(count, int):
        raise step.refusal("its padded windows need a known image size; export with static sizes")
    before, after = geometry.before[axis], geometry.after[axis]
    begin = np.arange(count) * geometry.strides[axis] - before
    taps = begin[:, None] + geometry.dilations[axis] * np.arange(geometry.kernel[axis])
    if step.attribute("count_include_pad", 0):
        return (taps < size + after).sum(1)
    return ((taps >= 0) & (taps < size)).sum(1)
