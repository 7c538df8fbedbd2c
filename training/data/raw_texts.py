"""Texts as they were read, before a tokenizer is known."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from training.data.input_set import moved_labels

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RawTexts:
    """texts: N; labels: int64 (N,), positions in `class_names`, -1 where there is none."""

    name: str
    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    origin: str

    kind: ClassVar[str] = "texts"

    @classmethod
    def named(
        cls, name: str, texts: Sequence[str], labels: Sequence[str | None], origin: str
    ) -> Self:
        """Labels by name; classes in alphabetical order, or in that of numbers."""
        found = {label for label in labels if label is not None}
        numbers = all(label.isdecimal() for label in found)
        classes = tuple(sorted(found, key=(lambda label: (int(label), label)) if numbers else None))
        index = {label: position for position, label in enumerate(classes)}
        positions = [-1 if label is None else index[label] for label in labels]
        return cls(name, tuple(texts), np.array(positions, np.int64), classes, origin)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: NDArray[np.int64], name: str) -> Self:
        texts = tuple(self.texts[index] for index in indices)
        return replace(self, name=name, texts=texts, labels=self.labels[indices])

    def in_classes_of(self, class_names: tuple[str, ...]) -> Self:
        """The same texts with labels of other classes' order; DataError on a class not there."""
        labels = moved_labels(self.name, self.labels, self.class_names, class_names)
        return replace(self, labels=labels, class_names=class_names)

    def once_each(self) -> Self:
        """The first of texts that are equal but for white space at their ends."""
        first: dict[str, int] = {}
        for position, text in enumerate(self.texts):
            first.setdefault(text.strip(), position)
        return self.take(np.fromiter(first.values(), np.int64), self.name)

    def readable(self) -> Self:
        """Without the texts of nothing but white space, and those with half a surrogate pair,
        which are no Unicode."""
        kept = [
            position
            for position, text in enumerate(self.texts)
            if text.strip() and not _HALF_A_PAIR.search(text)
        ]
        return self.take(np.array(kept, np.int64), self.name)
