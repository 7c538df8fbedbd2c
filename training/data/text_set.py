"""Texts in memory: as they were read, and as token ids."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from training.data.input_set import InputSet


@dataclass(frozen=True)
class TextSet(InputSet):
    """inputs: token ids int64 (N, L), `pad_id` on the right; texts: what they were made of."""

    inputs: NDArray[np.int64]
    texts: tuple[str, ...]
    pad_id: int

    kind: ClassVar[str] = "texts"

    def __post_init__(self) -> None:
        if self.inputs.ndim != 2 or self.inputs.dtype != np.int64:
            raise ValueError(
                f"{self.name}: token ids are {self.inputs.dtype} {self.inputs.shape}, "
                "expected int64 (N, L)"
            )
        super().__post_init__()
        if len(self.texts) != len(self):
            raise ValueError(f"{self.name}: {len(self.texts)} texts, {len(self)} rows of token ids")

    def take(self, indices: NDArray[np.int64], name: str) -> Self:
        return replace(
            self,
            name=name,
            inputs=self.inputs[indices],
            labels=self.labels[indices],
            texts=tuple(self.texts[index] for index in indices),
        )

    def batch(self, where: slice | NDArray[np.int64]) -> NDArray[np.int64]:
        """Without the columns that are padding in all of these texts."""
        tokens = self.inputs[where]
        return tokens[:, : int((tokens != self.pad_id).sum(axis=1).max(initial=1))]

    def contents(self) -> Iterator[bytes]:
        rows = zip(self.inputs, self.lengths(), strict=True)
        return (tokens[:length].tobytes() for tokens, length in rows)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text (N,)."""
        return (self.inputs != self.pad_id).sum(axis=1)
