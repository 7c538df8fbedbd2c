"""A small Transformer language model, sampled at a temperature.

The recipe of PyTorch's word_language_model example: width 200, 2 heads, 2 layers, dropout 0.2,
pieces of 35 tokens, gradients clipped at 0.25; trained with Adam in place of its plain SGD.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CLIP = 0.25
_SAMPLES = 250  # texts made at once


class LanguageModel(nn.Module):
    """Token ids (B, L), L <= `window` -> logits of each next token (B, L, V)."""

    def __init__(
        self,
        vocabulary_size: int,
        width: int = 200,
        heads: int = 2,
        layers: int = 2,
        dropout: float = 0.2,
        window: int = 35,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        if width % heads or width % 2:
            raise ValueError(f"width is {width}; it must be even, and a multiple of heads {heads}")
        self.window = window
        self.embed = nn.Embedding(vocabulary_size, width)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, heads, width, dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, vocabulary_size)
        self.register_buffer("places", _waves(window, width), persistent=False)
        mask = torch.full((window, window), -torch.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        self.optimisers = {"model": torch.optim.Adam(self.parameters(), lr=lr)}

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        values = self.embed(tokens) * math.sqrt(self.embed.embedding_dim)
        values = self.dropout(values + self.get_buffer("places")[:length])
        mask = self.get_buffer("mask")[:length, :length]
        return self.out(self.layers(values, mask=mask, is_causal=True))

    def step(self, pieces: Tensor) -> dict[str, float]:
        """One training step on pieces (B, window + 1)."""
        self.train()
        logits = self(pieces[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
        self.optimisers["model"].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), _CLIP)
        self.optimisers["model"].step()
        return {"nats a token": loss.item()}

    @torch.no_grad()
    def surprise(self, texts: Tensor) -> Tensor:
        """Texts of one length (N, L) -> mean nats of a token after the first (N,)."""
        self.eval()
        parts = []
        for rows in texts.split(_SAMPLES):
            logits = self(rows[:, :-1]).transpose(1, 2)
            parts.append(F.cross_entropy(logits, rows[:, 1:], reduction="none").mean(1))
        return torch.cat(parts)

    @torch.no_grad()
    def sample(
        self, count: int, temperature: float, seed: int, tokens: int, never: tuple[int, ...]
    ) -> Tensor:
        """(count, tokens) ids: a first one drawn uniformly, each next one from
        softmax(logits / temperature) of all before it; `never`: ids that are not drawn."""
        if not 1 < tokens <= self.window:
            raise ValueError(f"texts of {tokens} tokens; choose 2 to {self.window}")
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        size = self.out.out_features
        allowed = torch.tensor([index for index in range(size) if index not in never])
        parts = []
        for start in range(0, count, _SAMPLES):
            rows = min(_SAMPLES, count - start)
            first = torch.randint(0, len(allowed), (rows, 1), generator=generator)
            found = allowed[first]
            while found.shape[1] < tokens:
                logits = self(found.to(self.out.weight.device))[:, -1].cpu().double()
                logits[:, list(never)] = -torch.inf
                shares = (logits / temperature).softmax(1)
                found = torch.cat([found, torch.multinomial(shares, 1, generator=generator)], dim=1)
            parts.append(found)
        return torch.cat(parts)


def _waves(length: int, width: int) -> Tensor:
    """Sines and cosines of the place (length, width)."""
    places = torch.arange(length)[:, None]
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    found = torch.zeros(length, width)
    found[:, 0::2], found[:, 1::2] = torch.sin(places * rates), torch.cos(places * rates)
    return found
