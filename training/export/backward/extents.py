"""Shapes that cotangents must take: as wide as a tensor, or as narrow as before broadcasting."""

from training.export.backward.loading import Dim
from training.export.backward.step import Step


def shape_of(step: Step, name: str) -> str:
    """The tensor's shape, computed when the graph runs: no dimension is baked in."""
    return step.add("Shape", [name])


def length(step: Step, name: str, axis: int) -> str:
    """The tensor's size along one axis, a vector of one: a constant if it is known.

    The first axis is never taken for known: it is the batch.
    """
    size = step.dims(name)[axis]
    if isinstance(size, int) and axis > 0:
        return step.integers([size])
    return step.add("Shape", [name], start=axis, end=axis + 1)


def shaped_like(step: Step, tensor: str, name: str) -> str:
    """The tensor's elements in the shape of another tensor."""
    return step.add("Reshape", [tensor, shape_of(step, name)])


def zeros_like(step: Step, name: str) -> str:
    """A tensor of zeros: one zero, expanded."""
    return step.add("Expand", [step.number(0.0), shape_of(step, name)])


def unbroadcast(step: Step, cotangent: str, name: str, result: str) -> str:
    """dL/d(name) from a cotangent of the result's shape, into which `name` was broadcast.

    An element that was used several times gets the sum over its uses.
    """
    own, wide = step.dims(name), step.dims(result)
    extra = len(wide) - len(own)
    narrower = [(axis, dim) for axis, dim in enumerate(own, extra) if not _equal(dim, wide[axis])]
    if any(not isinstance(dim, int) for _, dim in narrower):
        return _unbroadcast_at_run_time(step, cotangent, name, extra)
    axes = [*range(extra), *(axis for axis, dim in narrower if dim == 1)]
    if not axes:
        return cotangent
    summed = step.add("ReduceSum", [cotangent, step.integers(axes)], keepdims=1)
    return step.add("Squeeze", [summed, step.integers(range(extra))]) if extra else summed


def _equal(dim: Dim, other: Dim) -> bool:
    """Whether two dimensions are known to be the same number."""
    return dim is not None and dim == other


def _unbroadcast_at_run_time(step: Step, cotangent: str, name: str, extra: int) -> str:
    """The same where a dimension is not known to be the result's, and may turn out to be 1."""
    own = step.add("Concat", [step.integers([1] * extra), shape_of(step, name)], axis=0)
    narrow = step.add("Equal", [own, step.integers([1])])
    axes = step.add("Reshape", [step.add("NonZero", [narrow]), step.integers([-1])])
    summed = step.add("ReduceSum", [cotangent, axes], keepdims=1, noop_with_empty_axes=1)
    return shaped_like(step, summed, name)
