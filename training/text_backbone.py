"""What a text classifier needs of its network."""

from typing import Protocol

from torch import Tensor, nn

from training.outputs import Outputs


class TextBackbone(Protocol):
    """A network of token sequences whose layers can be tapped.

    Texts are padded on the right; `mask` is True at their own tokens, the first ones of a row.
    No pad may influence any output: a text has the same outputs alone, in a batch and padded
    to any length, and a row without any token has finite ones.  Taps are vectors (B, D).
    """

    @property
    def tap_names(self) -> tuple[str, ...]:
        """In network order."""
        ...

    @property
    def penultimate(self) -> str:
        """The tap that the linear head reads."""
        ...

    @property
    def head(self) -> nn.Linear:
        """In evaluation mode logits = head(Outputs.features)."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 (B, L) -> word embeddings (B, L, E), each of its own token alone."""
        ...

    def __call__(self, embedded: Tensor, mask: Tensor) -> Outputs:
        """(B, L, E), bool (B, L) -> Outputs."""
        ...
