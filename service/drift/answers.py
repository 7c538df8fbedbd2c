"""Answers of one request as numbers, without the objects they came in.

Those would be kept until enough answers wait to be taken in together, out of the caches that the
next requests could have used.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.decision import Verdict


class Answers(NamedTuple):
    """Predicted labels (n,), scores (n, d) of the detectors `names` (d,), Unix seconds."""

    names: tuple[str, ...]
    labels: list[int]
    scores: NDArray[np.float32]
    at: float


def answers_of(verdicts: Sequence[Verdict], at: float) -> Answers:
    """n >= 1 verdicts of one plan."""
    names = verdicts[0].detectors.names
    numbers = chain.from_iterable([verdict.detectors.scores for verdict in verdicts])
    scores = np.fromiter(numbers, np.float32, len(verdicts) * len(names))
    labels = [verdict.label_index for verdict in verdicts]
    return Answers(names, labels, scores.reshape(-1, len(names)), at)
