"""Weights of a trained network in eight bits; activations and arithmetic stay float32.

Symmetric, one scale an output unit (an embedding: a word), w = scale x q, q in -127..127: half a
step of error at most.  The layers stay what they were, their `weight` is computed from the two;
checkpoint and graphs hold q and scale, and whoever runs a graph multiplies them once, on loading.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_STEPS = 127


class Dequantised(nn.Module):
    """q (out, ...) int8, scale (out,) -> q x scale, float32."""

    def forward(self, quantised: Tensor, scale: Tensor) -> Tensor:
        return quantised.float() * scale.view(-1, *(1 for _ in quantised.shape[1:]))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest q for each value; a row of zeros has scale 0."""
        scale = weight.detach().flatten(1).abs().amax(dim=1) / _STEPS
        divisor = torch.where(scale > 0, scale, 1).view(-1, *(1 for _ in weight.shape[1:]))
        return (weight.detach() / divisor).round().clamp(-_STEPS, _STEPS).to(torch.int8), scale


def quantise_weights(network: nn.Module, keep: nn.Module) -> None:
    """Every nn.Linear and nn.Embedding of a network that will not be trained on, in place.

    `keep`: the head, which stays float32: detectors compute with its weights.  ValueError where
    nothing is left to quantise.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Linear | nn.Embedding) and layer is not keep
    ]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} has no linear layer or embedding besides its head: it "
            "cannot be stored in eight bits"
        )
    for layer in layers:
        layer.weight.requires_grad_(False)
        parametrize.register_parametrization(layer, "weight", Dequantised())
