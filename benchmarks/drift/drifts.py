"""Drifts of known kind and size, as streams of answers.

Test-ID is cut in two: the labels of one half stand for those the calibration inputs got, streams
draw from the other.  A drift says what comes k inputs after it began.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.scores import CORRUPTIONS, OOD_FILES, SEVERITIES, Answers, World

Places = NDArray[np.int64]
# answers to inputs first, first + 1, ... of the drift, so many of them
Draw = Callable[[np.random.Generator, int, int], Answers]

SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
FACTORS = (1.5, 2, 3, 5)  # by which the share of one class grows
SHIFTED_CLASS = 2  # Pullover
RAMPS = (2_000, 10_000)  # inputs over which OOD grows from none to RAMP_END
RAMP_END = 0.5


@dataclass(frozen=True)
class Drift:
    """`kind`: ood, ramp, corruption, labels or none; `of`: which; `size`: how much."""

    kind: str
    of: str
    size: str
    draw: Draw


@dataclass(frozen=True)
class Streams:
    """`label_counts`: of the inputs that stand for the calibration's (k,)."""

    label_counts: NDArray[np.int64]
    ordinary: Draw
    drifts: list[Drift]


def streams_of(world: World, seed: int) -> Streams:
    """`seed`: of the cut; one of twenty cuts tells its halves apart at 5 %, so every stream has its
    own."""
    order = np.random.default_rng([seed, 1]).permutation(len(world.test_id))
    first, second = np.array_split(order, 2)
    stock = world.test_id.take(second)
    names = world.bundle.manifest.class_names
    counts = np.bincount(world.test_id.labels[first], minlength=len(names))
    drifts = [Drift("none", "", "", _ordinary(stock))]
    for name in OOD_FILES:
        ood = world.ood[name]
        drifts += [
            Drift("ood", name, f"{100 * share:g} %", _mixed(stock, ood, _constant(share)))
            for share in SHARES
        ]
    for name in OOD_FILES:
        drifts += [
            Drift("ramp", name, f"{length:,} inputs", _mixed(stock, world.ood[name], _ramp(length)))
            for length in RAMPS
        ]
    for kind in CORRUPTIONS:
        drifts += [
            Drift("corruption", kind, str(severity), _ordinary(world.corrupted[kind, severity]))
            for severity in SEVERITIES
        ]
    classes = world.classes[second]
    label = names[SHIFTED_CLASS]
    drifts += [
        Drift("labels", label, f"x {factor:g}", _shifted(stock, classes == SHIFTED_CLASS, factor))
        for factor in FACTORS
    ]
    return Streams(counts, _ordinary(stock), drifts)


def _ordinary(stock: Answers) -> Draw:
    return lambda rng, _, count: stock.take(rng.integers(0, len(stock), count))


def _mixed(stock: Answers, ood: Answers, share: Callable[[Places], NDArray[np.float64]]) -> Draw:
    """`share` of OOD by how many inputs ago the drift began."""
    both = Answers(
        {d: np.concatenate([stock.scores[d], ood.scores[d]]) for d in stock.scores},
        np.concatenate([stock.labels, ood.labels]),
    )

    def draw(rng: np.random.Generator, first: int, count: int) -> Answers:
        strange = rng.random(count) < share(first + np.arange(count))
        places = rng.integers(0, len(stock), count)
        places[strange] = len(stock) + rng.integers(0, len(ood), strange.sum())
        return both.take(places)

    return draw


def _constant(share: float) -> Callable[[Places], NDArray[np.float64]]:
    return lambda places: np.full(len(places), share)


def _ramp(length: int) -> Callable[[Places], NDArray[np.float64]]:
    return lambda places: RAMP_END * np.minimum(1.0, places / length)


def _shifted(stock: Answers, chosen: NDArray[np.bool_], factor: float) -> Draw:
    """The share of the chosen grows by `factor`, the others keep their mix: no OOD."""
    share = factor * chosen.mean()
    weights = np.where(chosen, share / chosen.sum(), (1 - share) / (~chosen).sum())
    return lambda rng, _, count: stock.take(rng.choice(len(stock), count, p=weights))
