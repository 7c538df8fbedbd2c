"""A bounded, uniform sample of everything that passed by, for banks and percentiles."""

import torch
from torch import Tensor
from torch.nn import functional


class Reservoir:
    """At most `capacity` rows, each stream row equally likely, in stream order.

    Each row draws one uniform key; the smallest keys stay.  The sample depends on the seed and
    on the order of the rows, not on how they are cut into batches; while no more than
    `capacity` rows have passed it is all of them.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"a reservoir of {capacity} rows holds nothing")
        self.capacity = capacity
        self.passed = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._keys = torch.zeros(0, dtype=torch.float64)
        self._places = torch.zeros(0, dtype=torch.int64)  # of the kept rows in the stream
        # room for `capacity` rows, taken from the machine as it is written
        self._columns: tuple[Tensor, ...] = ()

    def add(self, *columns: Tensor) -> None:
        """Tensors of equal length (B, ...): a row of each belongs together."""
        count, held = len(columns[0]), len(self._keys)
        if not self._columns:
            self._columns = tuple(
                torch.empty(self.capacity, *column.shape[1:], dtype=column.dtype)
                for column in columns
            )
        drawn = torch.rand(count, generator=self._generator, dtype=torch.float64)
        keys = torch.cat([self._keys, drawn])
        size = min(len(keys), self.capacity)
        kept = torch.ones(len(keys), dtype=torch.bool)
        kept[keys.topk(len(keys) - size).indices] = False
        chosen = kept[held:].nonzero()[:, 0]  # of the new rows
        # they take the places of those that leave, then what room there is
        free = torch.cat([(~kept[:held]).nonzero()[:, 0], torch.arange(held, size)])
        for room, column in zip(self._columns, columns, strict=True):
            room[free] = column.detach().cpu()[chosen]
        grown = size - held
        self._keys = functional.pad(self._keys, (0, grown))
        self._places = functional.pad(self._places, (0, grown))
        self._keys[free] = drawn[chosen]
        self._places[free] = chosen + self.passed
        self.passed += count

    def columns(self) -> tuple[Tensor, ...]:
        """The sampled rows, (n, ...) a column; () before the first `add`."""
        order = self._places.argsort()
        return tuple(room[order] for room in self._columns)
