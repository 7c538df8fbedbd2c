"""What a network gives a detector: tapped features and logits."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """taps: layer name -> (B, C, H, W) or (B, D), in network order; logits: (B, K).

    `penultimate` names the tap the linear head reads, after averaging over space if it is a map.
    """

    taps: dict[str, Tensor]
    logits: Tensor
    penultimate: str

    @property
    def features(self) -> Tensor:
        """Penultimate features (B, D): what the linear head reads."""
        return pooled(self.taps[self.penultimate])


def layer_suffixes(layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
    """What follows a detector's name in its score of each layer: nothing for the penultimate."""
    return tuple("" if layer == penultimate else f"_{layer}" for layer in layers)


def pooled(tap: Tensor) -> Tensor:
    """(B, C, H, W) -> spatial mean (B, C); (B, D) unchanged."""
    return tap.mean(dim=(2, 3)) if tap.dim() == 4 else tap
