"""The price list as data: what the JSON holds, and nothing that is not in it."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from benchmarks.prices.graphs import Kind
from service.bundle import Cost
from training.evaluation.timing import Ratio


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchPrice(_Record):
    """At one batch size: the ratio to the plain graph with its interval, and what it adds."""

    ratio: float
    low: float
    high: float
    pairs: int
    added_microseconds_an_input: float

    @property
    def interval(self) -> Ratio:
        return Ratio(self.ratio, self.low, self.high, self.pairs)


class Price(_Record):
    """Of one graph; bytes are what it adds to the plain graph's."""

    name: str
    kind: Kind
    cost: Cost | None
    scores: int
    batches: dict[int, BatchPrice]
    memory_bytes: int
    bundle_bytes: int


class PlainPrice(_Record):
    """The classifier alone."""

    microseconds_an_input: dict[int, float]
    memory_bytes: int
    bundle_bytes: int


class PriceList(_Record):
    """One run; memory is that of the largest batch."""

    environment: dict[str, Any]
    config: str
    backbone: str
    workload: str
    threads: int
    seconds_a_batch_size: float
    plain: PlainPrice
    prices: tuple[Price, ...]
    left_out: dict[str, str]

    @property
    def picture(self) -> str:
        """Its file, beside the page."""
        return f"price-list-{self.config}.png"

    @property
    def batches(self) -> list[int]:
        return sorted(self.plain.microseconds_an_input)

    def of(self, name: str) -> Price | None:
        """The price of that name; None where the run has none."""
        return next((price for price in self.prices if price.name == name), None)
