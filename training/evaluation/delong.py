"""DeLong's interval of an AUROC: for few outliers, where resampling says too much."""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from training.evaluation.metrics import ScoreCounts, auroc_of, check_share, count_scores


def delong_interval(
    id_scores: ArrayLike, ood_scores: ArrayLike, coverage: float = 0.95
) -> tuple[float, float]:
    """DeLong's interval on the logit scale, so it stays within 0..1.

    DeLong et al. 1988, Biometrics 44; midrank form Sun & Xu 2014.  Where one set lies wholly
    above the other DeLong's variance is zero; then the exact binomial bound of the
    min(n, m) independent (ID, OOD) pairs holds.  Raises ValueError with fewer than two of
    either, NaN, or coverage outside (0, 1).
    """
    check_share(coverage, "coverage")
    counts = count_scores(id_scores, ood_scores)
    area = auroc_of(counts)
    deviation = math.sqrt(_delong_variance(counts))
    if area in (0.0, 1.0):
        pairs = min(int(counts.id_counts.sum()), int(counts.ood_counts.sum()))
        bound = ((1.0 - coverage) / 2) ** (1 / pairs)
        return (bound, 1.0) if area == 1.0 else (0.0, 1.0 - bound)
    reach = NormalDist().inv_cdf(0.5 + coverage / 2) * deviation / (area * (1.0 - area))
    centre = math.log(area / (1.0 - area))
    return _logistic(centre - reach), _logistic(centre + reach)


def _delong_variance(counts: ScoreCounts) -> float:
    id_size, ood_size = int(counts.id_counts.sum()), int(counts.ood_counts.sum())
    if min(id_size, ood_size) < 2:
        raise ValueError(f"{id_size} ID and {ood_size} OOD scores: a variance needs two of each")
    area = auroc_of(counts)
    # placement: the share of the other set that a score beats, ties half
    ood_placement = (np.cumsum(counts.id_counts) - counts.id_counts / 2) / id_size
    id_placement = 1.0 - (np.cumsum(counts.ood_counts) - counts.ood_counts / 2) / ood_size
    ood_spread = float(counts.ood_counts @ (ood_placement - area) ** 2) / (ood_size - 1)
    id_spread = float(counts.id_counts @ (id_placement - area) ** 2) / (id_size - 1)
    return ood_spread / ood_size + id_spread / id_size


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
