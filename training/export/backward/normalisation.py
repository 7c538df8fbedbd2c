"""Cotangents of the normalisations."""

from collections.abc import Sequence

import numpy as np

from training.export.backward.expressions import Term, terms
from training.export.backward.step import Cotangents, Step


def batch_normalization(step: Step) -> Cotangents:
    """y = scale (x - mean) / sqrt(var + epsilon) + bias with fixed statistics: g times the slope.

    g is often a convolution times a ReLU mask.  The slope is then multiplied in before the
    mask, next to the convolution, whose weights an engine can merge it with.
    """
    if step.wanted != {0} or step.attribute("training_mode", 0):
        raise step.refusal("its statistics must be constants; export the network in eval mode")
    slope = _slope(step)
    masked = step.graph.producer(step.g)
    if masked is not None and masked.op_type == "Mul":
        maps, mask = masked.input
        source = step.graph.producer(maps)
        if source is not None and source.op_type in ("Conv", "ConvTranspose"):
            return {0: step.add("Mul", [step.add("Mul", [maps, slope]), mask])}
    return {0: step.add("Mul", [step.g, slope])}


def _slope(step: Step) -> str:
    """scale / sqrt(var + epsilon), one number a channel, shaped to multiply the maps."""
    scale, variance = step.graph.value(step.input(1)), step.graph.value(step.input(4))
    if scale is None or variance is None:
        raise step.refusal("its statistics must be constants; export the network in eval mode")
    spread = np.sqrt(variance.astype(np.float64) + step.attribute("epsilon", 1e-5))
    slope = (scale / spread).astype(scale.dtype)
    return step.graph.constant(slope.reshape(-1, *[1] * (step.rank(step.x) - 2)))


def layer_normalization(step: Step) -> Cotangents:
    """y = scale n + bias, n = (x - mean) r, r = 1 / sqrt(var + epsilon) over the last axes.

    With h = g scale: dx = r (h - mean h - n mean(h n)), as in `_through_statistics`.
    Source: Ba et al. 2016, arXiv:1607.06450.
    """
    if step.wanted != {0}:
        raise step.refusal("its scale and bias must be constants")
    rank = step.rank(step.x)
    axes = range(step.attribute("axis", -1) % rank, rank)
    scaled = Term(step, step.g) * Term(step, step.input(1))
    return {0: _through_statistics(step, scaled, axes).name}


def instance_normalization(step: Step) -> Cotangents:
    """Layer normalisation over the pixels of each channel; one scale and bias a channel."""
    if step.wanted != {0}:
        raise step.refusal("its scale and bias must be constants")
    rank = step.rank(step.x)
    each_channel = step.integers([-1, *[1] * (rank - 2)])
    scale = Term(step, step.add("Reshape", [step.input(1), each_channel]))
    return {0: _through_statistics(step, Term(step, step.g) * scale, range(2, rank)).name}


def _through_statistics(step: Step, h: Term, axes: Sequence[int]) -> Term:
    """dL/dx from h = dL/dn for n = (x - mean) r, whose mean and r depend on x too.

    dn_j/dx_i = r (1[i = j] - 1/D - n_i n_j / D), hence dx = r (h - mean h - n mean(h n)).
    """
    x, _, _ = terms(step)
    centred = x - x.mean(axes)
    variance = (centred * centred).mean(axes)
    r = (variance + step.attribute("epsilon", 1e-5)).to("Sqrt").to("Reciprocal")
    n = centred * r
    return r * (h - h.mean(axes) - n * (h * n).mean(axes))
