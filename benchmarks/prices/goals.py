"""What the project promises of its prices, and whether a measurement bears it out.

The limits are for WRN-40-2.  Theory: ODIN costs two forward passes and one backward, 3.0; FSSD
over four layers one forward, and for each layer the way back and forth again, 5.0.
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks.prices.graphs import WITHOUT_BANKS
from training.evaluation.timing import Ratio

Verdict = Literal["met", "missed", "open"]
NETWORK = "wrn_40_2"


@dataclass(frozen=True)
class Goal:
    """`graph` costs at most `limit` times the plain graph at that batch size."""

    text: str
    graph: str
    batch: int
    limit: float

    def verdict(self, ratio: Ratio) -> Verdict:
        """`open`: the interval holds the limit, so the measurement cannot tell."""
        if ratio.high <= self.limit:
            return "met"
        return "missed" if ratio.low > self.limit else "open"


_TOGETHER = "all detectors but gradients and banks, together"
GOALS = (
    Goal(_TOGETHER, WITHOUT_BANKS, 1, 1.10),
    Goal(_TOGETHER, WITHOUT_BANKS, 8, 1.05),
    Goal(_TOGETHER, WITHOUT_BANKS, 32, 1.05),
    *(Goal("ODIN", "odin", batch, 3.3) for batch in (1, 8, 32)),
    *(Goal("FSSD with perturbation, all layers", "fssd_perturbed", b, 5.7) for b in (1, 8, 32)),
)
