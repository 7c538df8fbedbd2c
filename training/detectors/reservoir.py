"""A bounded, uniform sample of everything that passed by, for banks and percentiles."""

import torch
from torch import Tensor


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
        self._columns: tuple[Tensor, ...] = ()

    def add(self, *columns: Tensor) -> None:
        """Tensors of equal length (B, ...): a row of each belongs together."""
        count = len(columns[0])
        self.passed += count
        keys = torch.rand(count, generator=self._generator, dtype=torch.float64)
        columns = tuple(column.detach().cpu() for column in columns)
        if self._columns:
            keys = torch.cat([self._keys, keys])
            columns = tuple(torch.cat(pair) for pair in zip(self._columns, columns, strict=True))
        if len(keys) > self.capacity:
            kept = keys.topk(self.capacity, largest=False).indices.sort().values
            keys, columns = keys[kept], tuple(column[kept] for column in columns)
        self._keys, self._columns = keys, columns

    def columns(self) -> tuple[Tensor, ...]:
        """The sampled rows, (n, ...) a column; () before the first `add`."""
        return self._columns
