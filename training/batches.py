"""Which inputs stand in which step: an epoch's order, the stream of outliers beside it, and how
many inputs at once fit into memory."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.config import OptimiserConfig
from training.data import InputSet, TextSet

BATCH = 256  # inputs of one pass, if they are small
_BATCH_VALUES = 1_500_000  # pixels and channels, 9 images of 224 x 224 x 3
_POOL = 50  # batches that are sorted by length together


def batch_rows(shape: Sequence[int], most: int = BATCH) -> int:
    """As many inputs of that shape as the layers of a network hold in moderate memory."""
    return max(1, min(most, _BATCH_VALUES // math.prod(shape)))


def epoch_batches(data: InputSet, recipe: OptimiserConfig) -> Sequence[Tensor]:
    """An epoch's batches, indices (B,), by torch's global seed."""
    if recipe.classes_per_batch is not None:
        return _balanced(data, recipe.batch_size, recipe.classes_per_batch)
    order = torch.randperm(len(data))
    if not recipe.like_lengths or not isinstance(data, TextSet):
        return order.split(recipe.batch_size)
    lengths = torch.from_numpy(data.lengths())
    batches = [
        batch
        for pool in order.split(_POOL * recipe.batch_size)
        for batch in pool[lengths[pool].argsort(stable=True)].split(recipe.batch_size)
    ]
    return [batches[index] for index in torch.randperm(len(batches))]


def _balanced(data: InputSet, size: int, classes: int) -> Sequence[Tensor]:
    """As many whole batches as len(data) / size, rounded up; each of `classes` classes drawn
    without replacement, each class walked through in an order of its own, again from its start
    where it ends."""
    labels = torch.from_numpy(data.labels)
    present = labels.unique()
    if len(present) < classes:
        raise ValueError(
            f"optimiser.classes_per_batch is {classes}; {data.name} has {len(present)} classes"
        )
    streams = {
        int(c): _Stream((labels == c).nonzero()[:, 0], torch.default_generator) for c in present
    }
    batches = []
    for _ in range(-(-len(data) // size)):
        chosen = present[torch.randperm(len(present))[:classes]].tolist()
        batches.append(torch.cat([streams[c].take(size // classes) for c in chosen]))
    return batches


class OutlierStream:
    """Outliers for one step after another, each once before any comes again.

    Its order follows from `seed` alone and draws nothing from torch's global seed, so that the
    order of ID does not depend on whether there are outliers.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._stream = _Stream(torch.arange(count), torch.Generator().manual_seed(seed))

    def take(self, count: int) -> Tensor:
        """Indices (count,)."""
        return self._stream.take(count)


class _Stream:
    def __init__(self, values: Tensor, generator: torch.Generator) -> None:
        self._values = values
        self._generator = generator
        self._waiting = values[:0]

    def take(self, count: int) -> Tensor:
        while len(self._waiting) < count:
            order = torch.randperm(len(self._values), generator=self._generator)
            self._waiting = torch.cat([self._waiting, self._values[order]])
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken
