"""Which inputs of a pool to ask about next: a score of each, and a batch of them.

Acquisition = epistemic score x P(ID): what is new, as far as it is worth a label at all.
"""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def ranks(scores: Scores) -> Scores:
    """The share of the pool with a lower score, ties at their middle; 0..1, (n,)."""
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, scores, "left")
    upto = np.searchsorted(ordered, scores, "right")
    return (below + upto) / (2 * len(scores))


def largest(scores: Scores, count: int) -> NDArray[np.int64]:
    """Positions of the `count` largest scores, the largest first; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[:count]


def drawn_by_power(
    scores: Scores, count: int, rng: np.random.Generator, power: float = 1.0
) -> NDArray[np.int64]:
    """`count` positions drawn without replacement with probabilities ~ score ^ power.

    A batch of the largest scores is a batch of near copies; drawing costs nothing and does as
    well as batches that were optimised together (Kirsch et al. 2021, arXiv:2106.12059).  Scores
    must not be negative; those of 0 come last.
    """
    if (scores < 0).any():
        raise ValueError("a score to draw by is negative; it must be 0 or more")
    with np.errstate(divide="ignore"):
        logarithms = power * np.log(scores)
    keys = np.maximum(logarithms, -1e6) + rng.gumbel(size=len(scores))
    return largest(keys, count)


def spread_out(
    epistemic: Scores,
    id_probability: Scores,
    points: NDArray[np.float32],
    count: int,
    candidates: int = 2000,
) -> NDArray[np.int64]:
    """A batch by rank of epistemic score x P(ID), whose members differ from each other.

    points (n, D): features in units of the density's bandwidth.  What is chosen counts as seen:
    every choice adds its kernel to the density p that `epistemic` = -log(n p) stands for, so its
    neighbours become known and the next choice lies elsewhere.
    """
    ordered = np.sort(epistemic)
    first = largest(ranks(epistemic) * id_probability, candidates)
    log_density, worth, points = -epistemic[first], id_probability[first], points[first]
    chosen: list[int] = []
    for _ in range(min(count, len(first))):
        position = np.searchsorted(ordered, -log_density) / len(ordered)
        value = position * worth
        value[chosen] = -np.inf
        best = int(value.argmax())
        chosen.append(best)
        kernel = -np.square(points - points[best]).sum(1) / 2
        log_density = np.logaddexp(log_density, kernel)
    return first[chosen]
