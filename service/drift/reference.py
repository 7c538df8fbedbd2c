"""What a detector's window is held against: its calibration scores and what they promise."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.bundle import DetectorSpec
from service.drift.bets import Bets
from service.drift.psi import bin_counts, bin_edges
from service.drift.wasserstein import bridge_integrals


@dataclass(frozen=True)
class Reference:
    """`calibration`: ascending scores (n,) of the served variant.  Higher = more OOD."""

    spec: DetectorSpec
    calibration: NDArray[np.float32]

    @property
    def size(self) -> int:
        return len(self.calibration)

    @property
    def scores(self) -> NDArray[np.float64]:
        return self.calibration.astype(np.float64)

    @property
    def expected_ood_rate(self) -> float:
        return 1 - self.spec.id_acceptance

    @property
    def highest_ood_rate(self) -> float:
        """The most OOD among ID inputs that a calibration of this size leaves plausible."""
        return 1 - self.spec.acceptance_interval[0]

    @cached_property
    def edges(self) -> NDArray[np.float64]:
        return bin_edges(self.scores)

    @cached_property
    def bin_counts(self) -> NDArray[np.int64]:
        return bin_counts(self.scores, self.edges)

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the calibration scores."""
        return float(self.scores.std())

    @cached_property
    def bets(self) -> Bets:
        return Bets.against(self.scores)

    def wasserstein_quantile(self, tail: float) -> float:
        """What chance exceeds with probability `tail`: for wasserstein_threshold."""
        if tail not in self._quantiles:
            draws = bridge_integrals(self.scores)
            self._quantiles[tail] = float(np.quantile(draws, 1 - tail))
        return self._quantiles[tail]

    @cached_property
    def _quantiles(self) -> dict[float, float]:
        return {}
