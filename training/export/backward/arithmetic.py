"""Cotangents of sums, products and their kin; the broadcasting of either side is undone."""

from collections.abc import Callable

import numpy as np

from training.export.backward.expressions import Term, terms
from training.export.backward.extents import unbroadcast
from training.export.backward.step import Cotangents, Step


def add(step: Step) -> Cotangents:
    """y = a + b + ...: every summand gets g."""
    return _undone(step, lambda _: Term(step, step.g))


def sub(step: Step) -> Cotangents:
    """y = a - b: g and -g."""
    g = Term(step, step.g)
    return _undone(step, lambda i: -g if i else g)


def mul(step: Step) -> Cotangents:
    """y = a b: g b and g a."""
    return _undone(step, lambda i: Term(step, step.g) * Term(step, step.input(1 - i)))


def div(step: Step) -> Cotangents:
    """y = a / b: g / b and -y g / b."""
    _, y, g = terms(step)
    quotient = g / Term(step, step.input(1))
    return _undone(step, lambda i: -(quotient * y) if i else quotient)


def power(step: Step) -> Cotangents:
    """y = x^c with a constant c: g c x^(c - 1)."""
    exponent = step.graph.value(step.input(1))
    if exponent is None or step.wanted != {0}:
        raise step.refusal("its exponent must be constant")
    x, _, g = terms(step)
    factor, lower = (
        Term(step, step.graph.constant(np.asarray(value, step.real_type())))
        for value in (exponent, np.asarray(exponent, step.real_type()) - 1)
    )
    rest = x if np.all(exponent == 2) else Term(step, step.add("Pow", [x.name, lower.name]))
    return _undone(step, lambda _: g * (rest * factor))


def extreme(step: Step) -> Cotangents:
    """y = the largest, or the smallest, of several tensors: g to it, shared equally by ties."""
    _, y, g = terms(step)
    hits = [Term(step, name).equals(y) for name in step.node.input]
    share = g / Term(step, step.add("Sum", [hit.name for hit in hits]))
    return _undone(step, lambda i: share * hits[i])


def where(step: Step) -> Cotangents:
    """y = a where the condition holds, else b: g there, and g elsewhere."""
    g, condition, nothing = step.g, step.input(0), step.number(0.0)
    sides = {1: [condition, g, nothing], 2: [condition, nothing, g]}
    return _undone(step, lambda i: Term(step, step.add("Where", sides[i])))


def neg(step: Step) -> Cotangents:
    """y = -x: -g."""
    return {0: (-Term(step, step.g)).name}


def identity(step: Step) -> Cotangents:
    """y = x: g."""
    return {0: step.g}


def dropout(step: Step) -> Cotangents:
    """y = x, as dropout does nothing at inference: g."""
    training = step.graph.value(step.input(2)) if step.input(2) else np.False_
    if training is None or training.any():
        raise step.refusal("it is in training mode; export the network in eval mode")
    return {0: step.g}


def cast(step: Step) -> Cotangents:
    """y = x in another real type: g in the type of x."""
    return {0: step.add("Cast", [step.g], to=step.graph.element_type(step.x))}


def _undone(step: Step, cotangent: Callable[[int], Term]) -> Cotangents:
    """The cotangents of the wanted inputs, in the shapes the inputs had before broadcasting."""
    return {
        i: unbroadcast(step, cotangent(i).name, step.input(i), step.y) for i in sorted(step.wanted)
    }
