"""Classifier inputs in memory, with their labels and where they come from."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray


class DataUnavailable(Exception):
    """A data set that is not on this machine; the message says how to get it."""


class DataError(Exception):
    """A data set that contradicts itself or another; the message says how."""


@dataclass(frozen=True)
class InputSet:
    """inputs: (N, ...), what the classifier reads; labels: int64 (N,), -1 where there is none."""

    name: str
    inputs: NDArray[Any]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    origin: str

    kind: ClassVar[str]  # what the inputs are, in the plural

    def __post_init__(self) -> None:
        if len(self.inputs) == 0 or self.labels.shape != (len(self.inputs),):
            raise ValueError(
                f"{self.name}: {len(self.inputs)} {self.kind}, labels {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: NDArray[np.int64], name: str) -> Self:
        return replace(self, name=name, inputs=self.inputs[indices], labels=self.labels[indices])

    def in_classes_of(self, class_names: tuple[str, ...]) -> Self:
        """The same inputs with labels of other classes' order; DataError on a class not there."""
        labels = moved_labels(self.name, self.labels, self.class_names, class_names)
        return replace(self, labels=labels, class_names=class_names)

    def batch(self, where: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Some of the inputs, as a classifier or a graph takes them."""
        return self.inputs[where]

    def contents(self) -> Iterator[bytes]:
        """Each input's content; equal for equal inputs alone."""
        return (given.tobytes() for given in self.inputs)

    def fingerprint(self) -> str:
        """Count and SHA-256 over inputs and labels, for the provenance."""
        digest = hashlib.sha256(np.ascontiguousarray(self.inputs).tobytes())
        digest.update(self.labels.tobytes())
        return f"{len(self)} {self.kind}, sha256 {digest.hexdigest()[:16]}, {self.origin}"


def moved_labels(
    name: str, labels: NDArray[np.int64], old: tuple[str, ...], new: tuple[str, ...]
) -> NDArray[np.int64]:
    """Positions in `old` -> positions in `new`; -1 stays.  DataError on a class not there."""
    unknown = sorted(set(old) - set(new))
    if unknown:
        raise DataError(f"{name} has the classes {unknown}, which are none of {list(new)[:20]}")
    return np.array([new.index(label) for label in old] + [-1], np.int64)[labels]
