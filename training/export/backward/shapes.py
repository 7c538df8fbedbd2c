"""Cotangents of operators that only move elements."""

import numpy as np

from training.export.backward.extents import length, shaped_like, unbroadcast, zeros_like
from training.export.backward.step import Cotangents, Step


def reshape(step: Step) -> Cotangents:
    """The same elements in another shape: g in the shape of x.  Also Flatten, (Un)squeeze."""
    return {0: shaped_like(step, step.g, step.x)}


def transpose(step: Step) -> Cotangents:
    """y = x with its axes permuted: g with the permutation undone."""
    order = step.attribute("perm", list(reversed(range(step.rank(step.x)))))
    return {0: step.add("Transpose", [step.g], perm=[int(i) for i in np.argsort(order)])}


def expand(step: Step) -> Cotangents:
    """y = x, repeated along axes of size 1: g summed over the repetitions."""
    return {0: unbroadcast(step, step.g, step.x, step.y)}


def concat(step: Step) -> Cotangents:
    """Parts laid end to end along one axis: each gets its stretch of g."""
    axis = step.attribute("axis", 0) % step.rank(step.y)
    begin = step.integers([0])
    cotangents: dict[int, str] = {}
    for position, part in enumerate(step.node.input):
        end = _sum(step, begin, length(step, part, axis))
        if position in step.wanted:
            cotangents[position] = step.add("Slice", [step.g, begin, end, step.integers([axis])])
        begin = end
    return cotangents


def split(step: Step) -> Cotangents:
    """One tensor cut along an axis: the cotangents of the parts laid end to end."""
    axis = step.attribute("axis", 0) % step.rank(step.x)
    parts = [
        cotangent or zeros_like(step, output)
        for cotangent, output in zip(step.cotangents, step.node.output, strict=True)
    ]
    return {0: step.add("Concat", parts, axis=axis)}


def _sum(step: Step, first: str, second: str) -> str:
    """Sum of two vectors of integers, at once if both are constants."""
    one, other = step.graph.value(first), step.graph.value(second)
    if one is None or other is None:
        return step.add("Add", [first, second])
    return step.graph.constant(one + other)
