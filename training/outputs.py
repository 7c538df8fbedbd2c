"""What a network gives a detector: tapped features and logits."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """taps: layer name -> (B, C, H, W) or (B, D), in network order; logits: (B, K).

    `penultimate` names the tap the linear head reads.
    """

    taps: dict[str, Tensor]
    logits: Tensor
    penultimate: str

    @property
    def features(self) -> Tensor:
        """Penultimate features (B, D)."""
        return self.taps[self.penultimate]
