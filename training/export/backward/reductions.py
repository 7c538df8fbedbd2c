"""Cotangents of reductions along axes: every reduced element gets its share of g."""

from collections.abc import Sequence

import numpy as np

from training.export.backward.expressions import Term, terms
from training.export.backward.extents import shape_of
from training.export.backward.step import Cotangents, Step


def reduce_sum(step: Step) -> Cotangents:
    """y = sum of x: every element gets g."""
    return {0: _spread(step, _wide(step)[1])}


def reduce_mean(step: Step) -> Cotangents:
    """y = mean of n elements: every element gets g / n."""
    axes = _axes(step)
    _, g = _wide(step)
    return {0: _spread(step, g / _count(step, axes) if axes else g)}


def reduce_extreme(step: Step) -> Cotangents:
    """y = largest, or smallest, x: g to where it stands, shared equally by ties."""
    x, _, _ = terms(step)
    y, g = _wide(step)
    return {0: _shared(x.equals(y), g, _axes(step)).name}


def reduce_sum_of_squares(step: Step) -> Cotangents:
    """y = sum of x^2: 2 x g."""
    x, _, _ = terms(step)
    return {0: (x * (_wide(step)[1] * 2.0)).name}


def reduce_length(step: Step) -> Cotangents:
    """y = sqrt(sum of x^2): g x / y, and 0 where y = 0."""
    x, _, _ = terms(step)
    y, g = _wide(step)
    return {0: (x * (g / y).where(y.above(0.0), 0.0)).name}


def reduce_magnitude(step: Step) -> Cotangents:
    """y = sum of |x|: g sign(x)."""
    x, _, _ = terms(step)
    return {0: (x.to("Sign") * _wide(step)[1]).name}


def reduce_log_sum_exp(step: Step) -> Cotangents:
    """y = log of the sum of e^x: g e^(x - y)."""
    x, _, _ = terms(step)
    y, g = _wide(step)
    return {0: ((x - y).to("Exp") * g).name}


def global_average_pool(step: Step) -> Cotangents:
    """y = mean over the n pixels of a channel: every pixel gets g / n."""
    _, _, g = terms(step)
    return {0: _spread(step, g / _count(step, range(2, step.rank(step.x))))}


def global_max_pool(step: Step) -> Cotangents:
    """y = largest pixel of a channel: g to it, shared equally by ties."""
    x, y, g = terms(step)
    return {0: _shared(x.equals(y), g, range(2, step.rank(step.x))).name}


def _shared(hits: Term, g: Term, axes: Sequence[int]) -> Term:
    """g divided among the hits (1 or 0) along the axes."""
    return hits * (g / hits.sum(axes)) if axes else hits * g


def _spread(step: Step, share: Term) -> str:
    """A share for every element of x."""
    return step.add("Expand", [share.name, shape_of(step, step.x)])


def _wide(step: Step) -> tuple[Term, Term]:
    """y and g, with the reduced axes as dimensions of 1."""
    axes = _axes(step)
    return Term(step, _kept(step, step.y, axes)), Term(step, _kept(step, step.g, axes))


def _axes(step: Step) -> list[int]:
    """The axes a reduction names, in its second input or its attribute; all, if it names none."""
    rank = step.rank(step.x)
    stated = step.attribute("axes", None)
    if step.input(1):
        stated = step.graph.value(step.input(1))
        if stated is None:
            raise step.refusal("its axes are computed at run time; export with constant axes")
    if stated is None or not len(stated):
        return [] if step.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(axis) % rank for axis in stated)


def _kept(step: Step, tensor: str, axes: Sequence[int]) -> str:
    """A reduction's output, or its cotangent, with the reduced axes back as dimensions of 1."""
    if step.attribute("keepdims", 1) or not axes:
        return tensor
    return step.add("Unsqueeze", [tensor, step.integers(axes)])


def _count(step: Step, axes: Sequence[int]) -> Term:
    """The number of elements of x along the axes, as a real scalar."""
    sizes = [step.dims(step.x)[axis] for axis in axes]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        return Term(step, step.number(float(np.prod(known))))
    picked = step.add("Gather", [shape_of(step, step.x), step.integers(axes)], axis=0)
    product = step.add("ReduceProd", [picked], keepdims=0)
    return Term(step, product).to("Cast", to=step.graph.element_type(step.x))
