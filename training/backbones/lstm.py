"""LSTM and bidirectional LSTM over symbols, as for reads of a genome.

The genome experiments of Huang et al. 2020, arXiv:2012.12682, tell neither the sizes nor the
embedding of their network; the taps are those the paper describes: the final state of every
layer, of both directions, and the logits.  The sizes are ours.

Source of the cell with its forget gate: Gers et al. 2000, "Learning to forget".
"""

import torch
from torch import Tensor, nn

from training.backbones.sequences import StepDropout, last_valid, reversed_within
from training.outputs import Outputs


class Lstm(nn.Module):
    """Taps `layer1`, `layer2`, ... and `logits`; the last layer is penultimate.

    `bidirectional`: every layer reads each sequence from both of its ends, the reverse
    direction starting at its last symbol, not at a pad; states are 2 x hidden wide.
    `dropout`: of what each layer reads, the same units at every step, and of the features.
    """

    def __init__(
        self,
        vocabulary_size: int,
        classes: int,
        *,
        embedding: int = 8,
        hidden: int = 128,
        layers: int = 2,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"lstm: layers is {layers}; at least 1 is needed")
        names = tuple(f"layer{number}" for number in range(1, layers + 1))
        self.tap_names = (*names, "logits")
        self.penultimate = names[-1]
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        out = hidden * (1 + bidirectional)
        widths = (embedding, *[out] * (layers - 1))
        self.layers = nn.ModuleList(_Layer(width, hidden, bidirectional) for width in widths)
        self.dropout_steps = StepDropout(dropout)
        self.dropout_features = nn.Dropout(dropout)
        self.fc = nn.Linear(out, classes)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def forward(self, embedded: Tensor, mask: Tensor) -> Outputs:
        """(B, L, embedding), bool (B, L) -> taps (B, hidden or 2 hidden), logits (B, K)."""
        taps: dict[str, Tensor] = {}
        states = embedded
        for name, layer in zip(self.tap_names, self.layers, strict=False):
            states, taps[name] = layer(self.dropout_steps(states), mask)
        taps["logits"] = self.fc(self.dropout_features(taps[self.penultimate]))
        return Outputs(taps, taps["logits"], self.penultimate)


class _Layer(nn.Module):
    """One layer: states of all steps, and the one each direction ends with."""

    def __init__(self, width: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.forwards = nn.LSTM(width, hidden, batch_first=True)
        self.backwards = nn.LSTM(width, hidden, batch_first=True) if bidirectional else None

    def forward(self, read: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, width) -> (B, L, hidden), (B, hidden); twice as wide with both directions."""
        states, _ = self.forwards(read)
        final = last_valid(states, mask)
        if self.backwards is None:
            return states, final
        mirrored, _ = self.backwards(reversed_within(read, mask))
        both = torch.cat([states, reversed_within(mirrored, mask)], dim=2)
        return both, torch.cat([final, last_valid(mirrored, mask)], dim=1)
