"""Cotangents of the smooth functions of one tensor: g times the slope."""

from math import pi, sqrt

from training.export.backward.expressions import terms
from training.export.backward.step import Cotangents, Step


def sigmoid(step: Step) -> Cotangents:
    """y = 1 / (1 + e^-x): slope y (1 - y)."""
    _, y, g = terms(step)
    return {0: (g * (y * (1.0 - y))).name}


def tanh(step: Step) -> Cotangents:
    """y = tanh x: slope 1 - y^2."""
    _, y, g = terms(step)
    return {0: (g * (1.0 - y * y)).name}


def softplus(step: Step) -> Cotangents:
    """y = log(1 + e^x): slope sigmoid x."""
    x, _, g = terms(step)
    return {0: (g * x.to("Sigmoid")).name}


def erf(step: Step) -> Cotangents:
    """y = erf x: slope 2 / sqrt(pi) e^(-x^2)."""
    x, _, g = terms(step)
    return {0: (g * (-(x * x)).to("Exp") * (2 / sqrt(pi))).name}


def gelu(step: Step) -> Cotangents:
    """y = x P(x), P the standard normal distribution: slope P(x) + x P'(x).

    `approximate="tanh"`: P = (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).
    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """
    x, _, g = terms(step)
    if step.attribute("approximate", "none") == "tanh":
        square = x * x
        u = x * (1.0 + square * 0.044715) * sqrt(2 / pi)
        t = u.to("Tanh")
        share = (1.0 + t) * 0.5
        density = (1.0 - t * t) * (1.0 + square * (3 * 0.044715)) * (0.5 * sqrt(2 / pi))
    else:
        share = (1.0 + (x * (1 / sqrt(2))).to("Erf")) * 0.5
        density = (x * x * -0.5).to("Exp") * (1 / sqrt(2 * pi))
    return {0: (g * (share + x * density)).name}


def exp(step: Step) -> Cotangents:
    """y = e^x: slope y."""
    _, y, g = terms(step)
    return {0: (g * y).name}


def log(step: Step) -> Cotangents:
    """y = log x: slope 1 / x."""
    x, _, g = terms(step)
    return {0: (g / x).name}


def square_root(step: Step) -> Cotangents:
    """y = sqrt x: slope 1 / (2 y), infinite at 0."""
    _, y, g = terms(step)
    return {0: (g / (y * 2.0)).name}


def reciprocal(step: Step) -> Cotangents:
    """y = 1 / x: slope -y^2."""
    _, y, g = terms(step)
    return {0: (-(g * (y * y))).name}


def softmax(step: Step) -> Cotangents:
    """y = e^x / sum e^x along one axis: y (g - sum g y)."""
    _, y, g = terms(step)
    return {0: (y * (g - (g * y).sum([_axis(step)]))).name}


def log_softmax(step: Step) -> Cotangents:
    """y = x - log sum e^x along one axis: g - e^y sum g."""
    _, y, g = terms(step)
    return {0: (g - y.to("Exp") * g.sum([_axis(step)])).name}


def _axis(step: Step) -> int:
    return step.attribute("axis", -1)
