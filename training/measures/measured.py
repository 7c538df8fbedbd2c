"""A trained network and its data, as every measure of a study takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches import batch_rows
from training.classifier import Classifier
from training.data import InputSet, Roles
from training.outputs import Outputs


@dataclass(frozen=True)
class Measured:
    """`limit`: of every set at most so many inputs, taken evenly.

    `reference`: the file with the penultimate features of test-ID in the study's first arm of
    the same seed, which that arm writes; `first`: whether this is that arm.
    """

    classifier: Classifier
    roles: Roles
    limit: int
    reference: Path
    first: bool

    @torch.no_grad()
    def outputs(self, data: InputSet, limit: int | None = None) -> Iterator[tuple[Outputs, Tensor]]:
        """Batches of outputs with their labels, evaluation mode; `limit` in place of its own."""
        device = self.classifier.eval().device
        rows = chosen(len(data), limit or self.limit)
        size = batch_rows(data.inputs.shape[1:])
        for part in np.array_split(rows, max(1, -(-len(rows) // size))):
            inputs = torch.from_numpy(data.batch(part)).to(device)
            yield self.classifier(inputs), torch.from_numpy(data.labels[part])

    def features(self, data: InputSet) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Penultimate features (n, D) and labels (n,)."""
        found = [(out.features.cpu().double(), labels) for out, labels in self.outputs(data)]
        features, labels = zip(*found, strict=True)
        return torch.cat(features).numpy(), torch.cat(labels).numpy()


def chosen(count: int, limit: int) -> NDArray[np.int64]:
    """Which of `count` inputs are taken, as `score_set` takes them."""
    return np.linspace(0, count - 1, min(count, limit)).astype(np.int64)
