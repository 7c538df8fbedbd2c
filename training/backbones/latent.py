"""A network with one more linear layer before its head: the latent mean of VMDLS.

Any network of the registry: its own head, which reads the penultimate layer linearly, becomes
the layer mu, and a new head reads mu.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from training.outputs import Outputs

LATENT = "mu"
_LOGITS = "logits"  # a tap of some networks; its place is after mu


class LatentNetwork(nn.Module):
    """Taps of `inner`, then `mu` (B, latent_dim), the penultimate one; logits = head(mu).

    `generator` names the tap that mu is linear in.
    """

    def __init__(
        self, make: Callable[..., Any], first: int, classes: int, latent_dim: int, **options: Any
    ) -> None:
        """`make`: an entry of a registry, called with `first` and `latent_dim` as its classes."""
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; at least 1 is needed")
        self.inner = make(first, latent_dim, **options)
        self.generator: str = self.inner.penultimate
        self.tap_names = (*(n for n in self.inner.tap_names if n != _LOGITS), LATENT)
        self.penultimate = LATENT
        self.classify = nn.Linear(latent_dim, classes)

    @property
    def head(self) -> nn.Linear:
        return self.classify

    def embed(self, tokens: Tensor) -> Tensor:
        """Of texts."""
        return self.inner.embed(tokens)

    def forward(self, *given: Tensor) -> Outputs:
        """What `inner` takes -> its taps and mu."""
        outputs = self.inner(*given)
        taps = {name: tap for name, tap in outputs.taps.items() if name != _LOGITS}
        taps[LATENT] = outputs.logits
        return Outputs(taps, self.classify(outputs.logits), LATENT)
