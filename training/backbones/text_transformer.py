"""A small pre-norm Transformer encoder for short texts.

Source: Vaswani et al. 2017, arXiv:1706.03762; normalisation before each part, Xiong et al. 2020,
arXiv:2002.04745; GELU, weights from N(0, 0.02^2) and learned positions as in BERT,
arXiv:1810.04805.
"""

import math

import torch
from torch import Tensor, nn

from training.backbones.sequences import StepDropout, mean_of_valid
from training.outputs import Outputs

# e^-30000 is 0 in float32, and the number fits float16: a text without tokens stays finite.
_MASKED = -3e4


class TextTransformer(nn.Module):
    """Taps: the mean over the tokens after each block; that of the last one, `final`, after the
    closing normalisation, is penultimate.

    `max_tokens`: how many learned positions there are; the input's limit must not be larger.
    `dropout`: of the embeddings and of what each part adds to them, the same units at every
    token, and of the features.
    """

    def __init__(
        self,
        vocabulary_size: int,
        classes: int,
        *,
        width: int = 128,
        heads: int = 4,
        blocks: int = 4,
        max_tokens: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if blocks < 1 or heads < 1 or width % heads:
            raise ValueError(
                f"text_transformer: blocks {blocks}, width {width}, heads {heads}; at least one "
                "block is needed, and heads must divide the width"
            )
        self.tap_names = (*(f"block{number}" for number in range(1, blocks)), "final")
        self.penultimate = "final"
        self.max_tokens = max_tokens
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(max_tokens, width)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.dropout_tokens = StepDropout(dropout)
        self.dropout_features = nn.Dropout(dropout)
        self.fc = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def embed(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens)

    def forward(self, embedded: Tensor, mask: Tensor) -> Outputs:
        """(B, L, width), bool (B, L) -> taps (B, width).  ValueError if L > max_tokens."""
        length = embedded.shape[1]
        # under export the length is a symbol; a graph refuses positions it does not have
        if not torch.compiler.is_exporting() and length > self.max_tokens:
            raise ValueError(
                f"text_transformer has {self.max_tokens} positions for {length} tokens: set "
                "max_tokens in backbone_options to at least that of the input, or truncate"
            )
        x = embedded + self.positions(torch.arange(length, device=embedded.device))
        x = self.dropout_tokens(x)
        taps: dict[str, Tensor] = {}
        for name, block in zip(self.tap_names, self.blocks, strict=True):
            x = block(x, mask)
            if name == self.penultimate:
                x = self.norm(x)
            taps[name] = mean_of_valid(x, mask)
        logits = self.fc(self.dropout_features(taps[self.penultimate]))
        return Outputs(taps, logits, self.penultimate)


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.gelu = nn.GELU()
        self.dropout = StepDropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.write(self._attend(self.norm1(x), mask)))
        return x + self.dropout(self.narrow(self.gelu(self.widen(self.norm2(x)))))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D), each head's values averaged by softmax(q k / sqrt(d))."""
        heads = (self.heads, x.shape[2] // self.heads)
        queries, keys, values = (
            part.unflatten(2, heads).transpose(1, 2) for part in self.read(x).chunk(3, dim=2)
        )  # (B, heads, L, d)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(heads[1])
        scores = scores.masked_fill(~mask[:, None, None, :], _MASKED)
        return (scores.softmax(dim=3) @ values).transpose(1, 2).flatten(2)
