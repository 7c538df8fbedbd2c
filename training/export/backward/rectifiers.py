"""Cotangents of the activations with kinks.

At a kink the slope is that of the flatter side: zero for ReLU at exactly 0 and for Clip at
its limits, as torch has it for relu, leaky_relu, relu6 and hardtanh.
"""

from onnx import TensorProto

from training.export.backward.expressions import Term, terms
from training.export.backward.step import Cotangents, Step

_STEEPEST = 3e38  # just below the largest float32


def relu(step: Step) -> Cotangents:
    """y = max(x, 0): g where y > 0, else 0.

    On CPUs the mask is a number: HardSigmoid(3e38 y) = min(1, max(0, 3e38 y)) is 0 at y = 0
    and 1 for every normal float32 y > 0, an overflow to infinity included; only y below 3e-39,
    a denormal, gets a fraction.  It stays in the memory layout that convolutions use, which a
    comparison does not.  Of an infinite g, mask * g is NaN where the mask is 0.
    """
    _, y, g = terms(step)
    if step.lowering == "cpu" and step.graph.element_type(step.y) == TensorProto.FLOAT:
        return {0: (g * y.to("HardSigmoid", alpha=_STEEPEST, beta=0.0)).name}
    return {0: g.where(y.above(0.0), 0.0).name}


def leaky_relu(step: Step) -> Cotangents:
    """y = x where x > 0, else alpha x: g and alpha g."""
    x, _, g = terms(step)
    return {0: g.where(x.above(0.0), g * step.attribute("alpha", 0.01)).name}


def elu(step: Step) -> Cotangents:
    """y = x where x > 0, else alpha (e^x - 1): g and g (y + alpha)."""
    x, y, g = terms(step)
    return {0: g.where(x.above(0.0), g * (y + step.attribute("alpha", 1.0))).name}


def clip(step: Step) -> Cotangents:
    """y = x between two limits, each of which may be missing: g strictly between them."""
    if step.wanted != {0}:
        raise step.refusal("its limits depend on the wanted tensor; only its first input may")
    x, _, g = terms(step)
    for position in (1, 2):
        if step.input(position):
            limit = Term(step, step.input(position))
            g = g.where(x.above(limit) if position == 1 else x.below(limit), 0.0)
    return {0: g.name}


def hard_sigmoid(step: Step) -> Cotangents:
    """y = min(1, max(0, alpha x + beta)): alpha g where 0 < y < 1."""
    _, y, g = terms(step)
    slope = g * step.attribute("alpha", 0.2)
    return {0: slope.where(y.above(0.0), 0.0).where(y.below(1.0), 0.0).name}


def hard_swish(step: Step) -> Cotangents:
    """y = x s(x), s = HardSigmoid(x / 6 + 1/2): g (s + x / 6 where 0 < s < 1)."""
    x, _, g = terms(step)
    s = x.to("HardSigmoid", alpha=1 / 6, beta=0.5)
    bend = (x / 6.0).where(s.above(0.0), 0.0).where(s.below(1.0), 0.0)
    return {0: (g * (s + bend)).name}


def absolute(step: Step) -> Cotangents:
    """y = |x|: g sign(x), 0 at x = 0."""
    x, _, g = terms(step)
    return {0: (g * x.to("Sign")).name}
