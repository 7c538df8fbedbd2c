"""Mahalanobis distance after a step towards the nearest class, layer by layer.

Source: Lee et al. 2018, arXiv:1807.03888.  The OOD-free choice of the steps, known as
Mahalanobis*: Hsu et al. 2020, arXiv:2002.11297.  Higher = more OOD.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.detectors.gaussian import nearest_class_distance
from training.detectors.mahalanobis import Mahalanobis
from training.graph_detectors.gradient import (
    GradientDetector,
    Sweep,
    spread_over_map,
    sweep_per_layer,
)
from training.graph_detectors.protocol import FitContext
from training.outputs import Outputs, layer_suffixes, pooled


class PerturbedMahalanobis(GradientDetector):
    """`<name>` reads the penultimate layer, `<name>_<layer>` each other one.

    L = half the squared distance to the layer's nearest class; the stepped image is measured
    against all classes again.
    """

    reference = "arXiv:1807.03888"
    summary = (
        "Squared Mahalanobis distance to the nearest class after one step of the image towards "
        "it, for each layer; a forward and a backward pass a layer."
    )

    builds_on = Mahalanobis

    def __init__(self, name: str = "mahalanobis_perturbed", epsilon: float | None = 0.0014) -> None:
        super().__init__(name, epsilon)

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return layer_suffixes(layers, penultimate)

    def adopt(self, context: FitContext) -> None:
        for name, value in context.detector(Mahalanobis, self.name).state_dict().items():
            self.register_buffer(name, value.clone())

    def sweeps(self, outputs: Outputs) -> tuple[Sweep, ...]:
        return sweep_per_layer(list(outputs.taps), self.name, outputs.penultimate)

    def cotangents(self, outputs: Outputs) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        for layer, tap in outputs.taps.items():
            whitening, means = self._classes(layer)
            gaps = (pooled(tap) @ whitening.T)[:, None, :] - means  # (B, K, D)
            nearest = gaps.square().sum(2).argmin(1)
            chosen = torch.arange(len(means)).to(nearest.device) == nearest[:, None]
            gap = (gaps * chosen[:, :, None]).sum(1)
            found[layer] = (tap, spread_over_map(gap @ whitening, tap))
        return found

    def scores(self, outputs: Outputs) -> dict[str, Tensor]:
        return {
            sweep.score: nearest_class_distance(
                pooled(outputs.taps[sweep.name]), *self._classes(sweep.name)
            )
            for sweep in self.sweeps(outputs)
        }

    def _classes(self, layer: str) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"whitening_{layer}"), self.get_buffer(f"whitened_means_{layer}")
