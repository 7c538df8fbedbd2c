"""How much OOD unlabelled inputs hold, from scores alone.  Higher score = more OOD.

A share q of them is accepted below a threshold that accepts a share a of ID: were only (1 - π)
of them ID, q >= (1 - π) a, so π >= 1 - q / a.  With an upper bound of q (Clopper & Pearson 1934)
and a lower one of a (exact, from the calibration's size; Vovk 2012, arXiv:1209.2673) that is a
lower confidence bound of π which supposes nothing of OOD.  Source: Blanchard, Lee & Scott 2010,
JMLR 11, section 5.  OOD that scores as ID does is not seen, so there is no upper bound.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from service.bundle import threshold_at
from training.advise.records import Share
from training.evaluation.metrics import as_scores

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
_DRAWS = 4000


def least_ood_share(
    calibration: ArrayLike,
    unlabelled: ArrayLike,
    levels: Sequence[float] = LEVELS,
    coverage: float = 0.95,
) -> float:
    """Calibration-ID scores (n,), unlabelled scores (m,) -> a share that π is at least, with
    probability `coverage` over both samples.

    The best of several thresholds, each bound corrected for their number (Bonferroni); those
    that n scores cannot promise are left out.
    """
    known = np.sort(as_scores(calibration, "calibration scores"))
    scores = as_scores(unlabelled, "unlabelled scores")
    promised = [(a, t) for a in levels if np.isfinite(t := threshold_at(known, a))]
    best = 0.0
    each = (1 - coverage) / (2 * max(1, len(promised)))
    for acceptance, threshold in promised:
        rank = int(threshold_at(np.arange(1.0, len(known) + 1), acceptance))
        accepted_id = float(special.betaincinv(rank, len(known) + 1 - rank, each))
        accepted = int((scores <= threshold).sum())
        best = max(best, 1 - upper_share(accepted, len(scores), 1 - each) / accepted_id)
    return best


def upper_share(count: int, total: int, coverage: float) -> float:
    """Clopper and Pearson's upper bound of a share."""
    if count == total:
        return 1.0
    return float(special.betaincinv(count + 1, total - count, coverage))


def estimated_ood_share(
    id_flagged: Share, outliers_flagged: Share, flagged: Share, coverage: float = 0.95
) -> tuple[float, tuple[float, float]] | None:
    """The share of OOD among unlabelled inputs, if OOD there is caught as the given outliers are,
    and its interval; None where too little tells the two apart.

    Rogan & Gladen 1978, Am. J. Epidemiol. 107; the interval from seeded draws of the three shares'
    Jeffreys posteriors.
    """
    if outliers_flagged.low <= id_flagged.high:
        return None
    rng = np.random.default_rng(0)
    id_drawn, caught, seen = (
        rng.beta(share.count + 0.5, share.total - share.count + 0.5, _DRAWS)
        for share in (id_flagged, outliers_flagged, flagged)
    )
    apart = np.maximum(caught - id_drawn, 1e-9)
    drawn = np.clip((seen - id_drawn) / apart, 0, 1)
    low, high = np.quantile(drawn, [(1 - coverage) / 2, (1 + coverage) / 2])
    share = (flagged.value - id_flagged.value) / (outliers_flagged.value - id_flagged.value)
    return min(1.0, max(0.0, share)), (float(low), float(high))
