"""Feature space singularity distance after a step along its own gradient, layer by layer.

Source: Huang et al. 2020, arXiv:2012.12682.  Higher = more OOD.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from training.detectors.fssd import Fssd, flat_norm
from training.graph_detectors.gradient import GradientDetector, Sweep, sweep_per_layer
from training.graph_detectors.protocol import FitContext
from training.outputs import Outputs, layer_suffixes


class PerturbedFssd(GradientDetector):
    """`<name>` reads the penultimate layer, `<name>_<layer>` each other one.

    variant `published`: the paper's algorithm, a signed step that *raises* the distance d to
    the noise centre.  `official`: what the released code does, a step along the standardised
    gradient that *lowers* d.  The code standardises over the whole batch; here over each image,
    so that a score depends on its own input only.
    """

    reference = "arXiv:2012.12682"
    summary = (
        "Minus the distance of the layer's features to those of pure noise, after one step of "
        "the image along that distance's gradient; a forward and a backward pass a layer."
    )

    builds_on = Fssd

    def __init__(
        self,
        name: str = "fssd_perturbed",
        variant: Literal["published", "official"] = "published",
        epsilon: float | None = 0.002,
    ) -> None:
        super().__init__(name, epsilon)
        if variant not in ("published", "official"):
            raise ValueError(f"{name}: variant {variant!r}; choose published or official")
        self.variant = variant
        self.direction = "sign" if variant == "published" else "standardised"

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return layer_suffixes(layers, penultimate)

    def adopt(self, context: FitContext) -> None:
        for name, value in context.detector(Fssd, self.name).state_dict().items():
            if name.startswith("center_"):
                self.register_buffer(name, value.clone())

    def sweeps(self, outputs: Outputs) -> tuple[Sweep, ...]:
        return sweep_per_layer(list(outputs.taps), self.name, outputs.penultimate)

    def cotangents(self, outputs: Outputs) -> dict[str, tuple[Tensor, Tensor]]:
        """L = -d for the published direction, d for the official one."""
        orientation = -1.0 if self.variant == "published" else 1.0
        found = {}
        for layer, tap in outputs.taps.items():
            gap = tap - self.get_buffer(f"center_{layer}")
            distance = flat_norm(gap).view(-1, *(1 for _ in tap.shape[1:]))
            found[layer] = (tap, orientation * gap / distance.clamp(min=1e-12))
        return found

    def scores(self, outputs: Outputs) -> dict[str, Tensor]:
        return {
            sweep.score: -flat_norm(
                outputs.taps[sweep.name] - self.get_buffer(f"center_{sweep.name}")
            )
            for sweep in self.sweeps(outputs)
        }

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"variant": self.variant, **super().hyperparameters()}
