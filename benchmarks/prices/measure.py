"""Workload -> price list: every graph timed, weighed and opened, all in one run."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import environment
from benchmarks.prices.goals import GOALS
from benchmarks.prices.graphs import (
    PricedGraph,
    bundle_bytes,
    stored_bytes,
    write_priced_graphs,
)
from benchmarks.prices.memory import resident_bytes
from benchmarks.prices.records import BatchPrice, PlainPrice, Price, PriceList
from benchmarks.prices.workload import Workload
from service.onnx_session import OnnxSession
from training.evaluation.timing import Limits, Timed, compare
from training.progress import say, track

THREADS = 1

Pixels = NDArray[np.uint8]


def measure(workload: Workload, batches: Sequence[int], limits: Limits) -> PriceList:
    """Times of all graphs at every batch size, then their bytes."""
    spec = workload.spec
    shape = (spec.height, spec.width, spec.channels)
    with tempfile.TemporaryDirectory() as temporary:
        say("exporting graphs")
        plain, *graphs = write_priced_graphs(workload, Path(temporary))
        times = {b: _times(plain, graphs, shape, b, limits) for b in batches}
        largest = max(batches)
        resident = {
            graph.name: resident_bytes(graph.path, graph.outputs, shape, batches)[largest]
            for graph in track([plain, *graphs], "memory of every graph, each in its own process")
        }
        prices = [
            Price(
                name=graph.name,
                kind=graph.kind,
                cost=graph.cost,
                scores=graph.scores,
                batches={batch: _price(times[batch][graph.name], batch) for batch in batches},
                memory_bytes=resident[graph.name] - resident[plain.name],
                bundle_bytes=bundle_bytes(plain, graph),
            )
            for graph in graphs
        ]
        return PriceList(
            environment=environment(),
            config=workload.config,
            workload=workload.description,
            backbone=workload.backbone,
            threads=THREADS,
            seconds_a_batch_size=limits.seconds,
            plain=PlainPrice(
                microseconds_an_input={
                    batch: round(median(_plain(t) for t in times[batch].values()) * 1e6 / batch, 1)
                    for batch in batches
                },
                memory_bytes=resident[plain.name],
                bundle_bytes=stored_bytes([plain.path]),
            ),
            prices=tuple(prices),
            left_out=workload.left_out,
        )


def _times(
    plain: PricedGraph,
    graphs: Sequence[PricedGraph],
    shape: Sequence[int],
    batch: int,
    limits: Limits,
) -> dict[str, Timed]:
    say(f"timing {len(graphs)} graphs at batch {batch}")
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype=np.uint8)
    calls = {graph.name: _call(graph, pixels) for graph in graphs}
    often = {goal.graph for goal in GOALS}
    return compare(_call(plain, pixels), calls, limits, often)


def _call(graph: PricedGraph, pixels: Pixels) -> Callable[[], object]:
    """The session the service would open, on these pixels."""
    session = OnnxSession(graph.path, provider="cpu", threads=THREADS)
    return functools.partial(session.run, pixels, graph.outputs)


def _price(timed: Timed, batch: int) -> BatchPrice:
    return BatchPrice(
        ratio=round(timed.ratio.median, 4),
        low=round(timed.ratio.low, 4),
        high=round(timed.ratio.high, 4),
        pairs=timed.ratio.pairs,
        added_microseconds_an_input=round(timed.added * 1e6 / batch, 1),
    )


def _plain(timed: Timed) -> float:
    return timed.seconds - timed.added
