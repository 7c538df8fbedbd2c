"""Cotangents of convolutions with respect to their images; weights are constants.

With output position q, kernel position t, stride s, dilation d and padding p along one axis,

    y[q] = sum_t w[t] x[s q + d t - p],   so   dL/dx[i] = sum over s q = i + p - d t of w[t] g[q].

`cuda` writes this as ConvTranspose, which is this sum by definition.  ConvTranspose does not
scale with threads on CPUs, hence `cpu`: a convolution over g with rearranged weights.  The
rearrangement is written as nodes on the original weights; engines fold it when they load the
graph, and the file holds every weight once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.export.backward.loading import Dim
from training.export.backward.step import Cotangents, Step

_BEFORE_THE_FIRST = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution's window, one number an axis of the image."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def axes(self) -> range:
        return range(len(self.kernel))

    def reach(self, axis: int) -> int:
        """Distance between the first and the last pixel of a window."""
        return self.dilations[axis] * (self.kernel[axis] - 1)


def window(step: Step, kernel: tuple[int, ...]) -> Geometry:
    """Strides, dilations and explicit padding of a convolution or pooling node."""
    axes = len(kernel)
    padding = step.attribute("auto_pad", "NOTSET")
    if padding not in ("NOTSET", "VALID"):
        raise step.refusal(f"auto_pad={padding}; export with explicit padding")
    pads = [0] * 2 * axes if padding == "VALID" else step.attribute("pads", [0] * 2 * axes)
    return Geometry(
        kernel,
        tuple(step.attribute("strides", [1] * axes)),
        tuple(step.attribute("dilations", [1] * axes)),
        tuple(pads[:axes]),
        tuple(pads[axes:]),
    )


def conv(step: Step) -> Cotangents:
    """Y = W * X + B  ->  dX by the sum above, in the cheapest form the lowering allows."""
    if step.wanted - {0}:
        raise step.refusal("its weights depend on the wanted tensor; only images may")
    weights = step.dims(step.node.input[1])
    if not all(isinstance(size, int) for size in weights):
        raise step.refusal("its weights have no static shape; export them as constants")
    sizes = tuple(size for size in weights if isinstance(size, int))
    geometry = window(step, sizes[2:])
    if step.lowering == "cpu" and _is_correlation(geometry):
        return {0: _correlate(step, geometry, sizes)}
    if step.lowering == "cpu" and _is_phased(geometry):
        return {0: _correlate_by_phase(step, geometry, sizes)}
    group = step.attribute("group", 1)
    return {0: transposed(step, step.node.input[1], geometry, step.g, group)}


def conv_transpose(step: Step) -> Cotangents:
    """Y is the sum above with X for g, so dX is the convolution it belongs to: W * g."""
    weights = step.input(1)
    sizes = step.dims(weights)[2:]
    kernel = tuple(size for size in sizes if isinstance(size, int))
    if step.wanted - {0} or len(kernel) < len(sizes):
        raise step.refusal("its weights must be constants; only its images may be differentiated")
    if step.attribute("output_shape", None) is not None:
        raise step.refusal("output_shape is stated; export with explicit padding")
    geometry = window(step, kernel)
    maps = step.add(
        "Conv",
        [step.g, weights],
        group=step.attribute("group", 1),
        kernel_shape=kernel,
        strides=geometry.strides,
        dilations=geometry.dilations,
        pads=[*geometry.before, *geometry.after],
    )
    return {0: maps}


def _is_correlation(window: Geometry) -> bool:
    """Stride 1 and no more padding than the window reaches."""
    return set(window.strides) == {1} and all(
        max(window.before[a], window.after[a]) <= window.reach(a) for a in window.axes
    )


def _is_phased(window: Geometry) -> bool:
    """Two axes with one stride, no dilation, padding narrower than the kernel."""
    return (
        len(window.kernel) == 2
        and len(set(window.strides)) == 1
        and set(window.dilations) == {1}
        and all(max(window.before[a], window.after[a]) < window.kernel[a] for a in window.axes)
    )


def _correlate(step: Step, window: Geometry, sizes: tuple[int, ...]) -> str:
    """Stride 1: dx[i] = sum_t w[t] g[i + p - d t], a convolution of g with the flipped kernel."""
    group = step.attribute("group", 1)
    flipped = _flipped(step, step.node.input[1], [2 + a for a in window.axes])
    return step.add(
        "Conv",
        [step.g, _channels_swapped(step, flipped, group, sizes)],
        group=group,
        dilations=window.dilations,
        kernel_shape=window.kernel,
        pads=[
            window.reach(a) - given
            for side in (window.before, window.after)
            for a, given in enumerate(side)
        ],
    )


def _channels_swapped(step: Step, weights: str, group: int, sizes: tuple[int, ...]) -> str:
    """(out, in / group, ...) -> (in, out / group, ...)."""
    outgoing, incoming, *kernel = sizes
    if group == 1:
        return step.add("Transpose", [weights], perm=[1, 0, *range(2, len(sizes))])
    split = [group, outgoing // group, incoming, *kernel]
    grouped = step.add("Reshape", [weights, step.integers(split)])
    swapped = step.add("Transpose", [grouped], perm=[0, 2, 1, *range(3, 1 + len(sizes))])
    merged = [group * incoming, outgoing // group, *kernel]
    return step.add("Reshape", [swapped, step.integers(merged)])


@dataclass(frozen=True)
class _Phases:
    """One axis of a strided convolution taken apart into `stride` phases of `taps` taps."""

    taps: int
    lead: int  # zeros before the kernel, that its phases be aligned
    trail: int  # zeros behind it, that they be equally long
    before: int  # padding of g
    after: int
    exact: bool  # the phases laid out are as long as the image; else they are cut to it


def _phases(window: Geometry, axis: int, image: Dim, result: Dim) -> _Phases:
    """Sizes along one axis; see `_correlate_by_phase`."""
    stride, kernel = window.strides[axis], window.kernel[axis]
    before, after = window.before[axis], window.after[axis]
    last = -(-before // stride)
    lead = stride * last - before
    taps = -(-(lead + kernel) // stride)
    # Positions of g do not always cover the image: its last pixels may be in no window.
    if isinstance(image, int) and isinstance(result, int):
        extra = max(0, -(-image // stride) - result)
        exact = stride * (result + extra) == image
    else:
        extra = max(0, -(-(kernel - 1 - before - after) // stride))
        exact = False
    trail = stride * taps - lead - kernel
    return _Phases(taps, lead, trail, taps - 1 - last, last + extra, exact)


def _correlate_by_phase(step: Step, window: Geometry, sizes: tuple[int, ...]) -> str:
    """Stride s: the pixels i = s j + a of one phase a are a convolution of g of their own.

    dx[s j + a] = sum_o w[a + p - s o] g[j + o]: the kernel, padded to s m taps, falls apart
    into s phases of m taps.  All phases are the output channels of one convolution, and
    DepthToSpace lays them side by side.
    """
    image, result = step.dims(step.x)[2:], step.dims(step.y)[2:]
    axes = [_phases(window, a, image[a], result[a]) for a in window.axes]
    maps = step.add(
        "Conv",
        [step.g, _phase_weights(step, axes, window.strides[0], sizes)],
        group=step.attribute("group", 1),
        kernel_shape=[axis.taps for axis in axes],
        pads=[axis.before for axis in axes] + [axis.after for axis in axes],
    )
    laid_out = step.add("DepthToSpace", [maps], blocksize=window.strides[0], mode="CRD")
    return laid_out if all(axis.exact for axis in axes) else _cut(step, laid_out, len(axes))


def _phase_weights(step: Step, axes: Sequence[_Phases], stride: int, sizes: tuple[int, ...]) -> str:
    """(out, in / group, K, K) -> (in s s, out / group, m, m), each phase flipped."""
    group = step.attribute("group", 1)
    outgoing, incoming = sizes[:2]
    rows, columns = axes
    zeros = [0, 0, rows.lead, columns.lead, 0, 0, rows.trail, columns.trail]
    padded = step.add("Pad", [step.node.input[1], step.integers(zeros)])
    parts = [group, outgoing // group, incoming, rows.taps, stride, columns.taps, stride]
    apart = step.add("Reshape", [padded, step.integers(parts)])
    flipped = _flipped(step, apart, [3, 5])
    ordered = step.add("Transpose", [flipped], perm=[0, 2, 4, 6, 1, 3, 5])
    merged = [group * incoming * stride**2, outgoing // group, rows.taps, columns.taps]
    return step.add("Reshape", [ordered, step.integers(merged)])


def _flipped(step: Step, weights: str, axes: Sequence[int]) -> str:
    """The same weights, read backwards along the axes."""
    backwards = step.integers([-1] * len(axes))
    ends = step.integers([_BEFORE_THE_FIRST] * len(axes))
    return step.add("Slice", [weights, backwards, ends, step.integers(axes), backwards])


def _cut(step: Step, maps: str, axes: int) -> str:
    """The first pixels of the maps, as many as the image has."""
    ends = step.add("Shape", [step.x], start=2)
    spatial = step.integers(range(2, 2 + axes))
    return step.add("Slice", [maps, step.integers([0] * axes), ends, spatial])


def transposed(step: Step, weights: str, window: Geometry, cotangent: str, group: int) -> str:
    """The sum by ConvTranspose; pixels behind the last window get zero."""
    image, result = step.dims(step.x)[2:], step.dims(step.y)[2:]
    missing: list[int] = []
    exact = True
    for a in window.axes:
        size, windows, stride = image[a], result[a], window.strides[a]
        if isinstance(size, int) and isinstance(windows, int):
            padded = size + window.before[a] + window.after[a]
            missing.append(padded - (windows - 1) * stride - window.reach(a) - 1)
        else:
            missing.append(stride - 1)
            exact = exact and stride == 1
    # Fewer than none are missing where rounding up made a window end behind the padding.
    beyond = [after + max(0, -m) for after, m in zip(window.after, missing, strict=True)]
    maps = step.add(
        "ConvTranspose",
        [cotangent, weights],
        group=group,
        kernel_shape=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        pads=[*window.before, *beyond],
        output_padding=[max(0, m) for m in missing],
    )
    return maps if exact else _cut(step, maps, len(window.kernel))
