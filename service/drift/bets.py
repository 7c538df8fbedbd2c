"""Bets against "nothing drifts": what both sequential alarms multiply, input by input.

A bet watches one score of the calibration, the one that a share q of it exceeds, and pays b / a
when an input exceeds it, (1 - b) / (1 - a) when not.  `a` is not q but the most that the true
share beyond that score may be, all watched scores of a detector together, with probability
CONFIDENCE: so no bet wins on average while nothing drifts, although the calibration is finite.
b = a + w (1 - a) suits a share w of strange inputs.

An exceeded score is a calibration-conditional conformal p-value below a; ties count as not
exceeded.  Source: Bates et al. 2023, arXiv:2104.08279, section 3; Shin, Ramdas & Rinaldo,
arXiv:2203.03532, section 2.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.drift.tails import largest_share

CONFIDENCE = 0.9
# (q, w): the share of the calibration beyond the watched score, the share of strange inputs
BETS = (
    (0.001, 0.005),
    (0.001, 0.05),
    (0.003, 0.006),
    (0.003, 0.05),
    (0.01, 0.008),
    (0.01, 0.08),
    (0.05, 0.1),
    (0.2, 0.2),
)


@dataclass(frozen=True)
class Bets:
    """`watched` (l,) ascending scores; `log_payoffs` (k, l + 1): of every bet by how many of the
    watched scores an input exceeds.
    """

    watched: NDArray[np.float64]
    log_payoffs: NDArray[np.float64]

    @classmethod
    def against(cls, sorted_scores: NDArray[np.float64]) -> "Bets":
        """Ascending calibration scores (n,) -> the bets; a small n leaves fewer."""
        size = len(sorted_scores)
        beyond = {share: int(size * share) for share, _ in BETS}
        ranks = sorted(set(beyond.values()), reverse=True)
        miss = (1 - CONFIDENCE) / len(ranks)
        bets = dict.fromkeys((beyond[share], strange) for share, strange in BETS)
        payoffs = np.empty((len(bets), len(ranks) + 1))
        for row, (rank, strange) in enumerate(bets):
            most = largest_share(rank, size, miss)
            bet = most + strange * (1 - most)
            exceeded = np.arange(len(ranks) + 1) > ranks.index(rank)
            payoffs[row] = np.where(exceeded, bet / most, (1 - bet) / (1 - most))
        return cls(sorted_scores[[size - 1 - rank for rank in ranks]], np.log(payoffs))

    @cached_property
    def payoffs(self) -> NDArray[np.float64]:
        """(k, l + 1)."""
        return np.exp(self.log_payoffs)

    @property
    def count(self) -> int:
        return len(self.log_payoffs)

    def log_payoffs_of(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Scores (n,) -> logarithms of the payoffs (k, n)."""
        exceeded = np.searchsorted(self.watched, scores, side="left")
        return self.log_payoffs.take(exceeded, axis=1)
