"""How well scores separate ID from OOD, from ranks alone.  Higher score = more OOD.

Every metric depends on the order of the scores only, so any strictly rising transformation
(and any magnitude) leaves it unchanged; equal scores count as equal.  +inf and -inf are
accepted, they have a place in the order; NaN has none and is refused, as is an empty array.
All results are shares in 0..1.

FPR at 95 % exists on two sides in the literature, and they are different numbers:
- ID side (ODIN, Mahalanobis, energy, FSSD): accept >= 95 % of ID; share of OOD accepted.
- OOD side (outlier exposure, pytorch-ood, OpenOOD): catch >= 95 % of OOD; share of ID rejected.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class OodMetrics:
    """One detector on one OOD set; shares in 0..1.  `detection_error` chooses its threshold
    on the test labels and is descriptive only; the last three fields are what deployment sees.
    """

    id_count: int
    ood_count: int
    auroc: float
    aupr_out: float  # OOD positive; chance = ood_count / (id_count + ood_count)
    aupr_in: float  # ID positive
    aupr_out_trapezoid: float
    aupr_in_trapezoid: float
    fpr95_id_side: float
    fpr80_id_side: float
    fpr95_ood_side: float
    tnr_at_tpr95: float  # 1 - fpr95_id_side
    detection_error: float
    threshold: float
    id_acceptance: float  # realised at `threshold`: share of ID with score <= threshold
    ood_rejection: float  # realised at `threshold`: share of OOD with score > threshold


@dataclass(frozen=True)
class ScoreCounts:
    """How many ID and OOD scores lie on each distinct value, ascending; both (U,) int64."""

    id_counts: NDArray[np.int64]
    ood_counts: NDArray[np.int64]

    def reversed(self) -> "ScoreCounts":
        """The same with ID and OOD, and up and down, exchanged."""
        return ScoreCounts(self.ood_counts[::-1], self.id_counts[::-1])


def as_scores(scores: ArrayLike, name: str) -> NDArray[np.float64]:
    """Any real array (n,) -> float64 (n,).  Raises ValueError: empty, not 1-d, or NaN."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name}: shape {array.shape}; one score an input, shape (n,), is needed")
    if array.size == 0:
        raise ValueError(f"{name}: no scores")
    missing = int(np.isnan(array).sum())
    if missing:
        raise ValueError(f"{name}: {missing} of {array.size} are NaN, which has no rank")
    return array


def check_share(value: float, name: str) -> None:
    """Raises ValueError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")


def count_scores(id_scores: ArrayLike, ood_scores: ArrayLike) -> ScoreCounts:
    """ID scores (n,), OOD scores (m,) -> counts per distinct value.  Raises ValueError."""
    id_array, ood_array = as_scores(id_scores, "ID scores"), as_scores(ood_scores, "OOD scores")
    values, codes = np.unique(np.concatenate([id_array, ood_array]), return_inverse=True)
    id_counts = np.bincount(codes[: id_array.size], minlength=values.size)
    ood_counts = np.bincount(codes[id_array.size :], minlength=values.size)
    return ScoreCounts(id_counts, ood_counts)


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """P(OOD score > ID score) + half P(equal): 0.5 is chance, below 0.5 the sign is wrong."""
    return auroc_of(count_scores(id_scores, ood_scores))


def aupr_out(id_scores: ArrayLike, ood_scores: ArrayLike, *, trapezoid: bool = False) -> float:
    """Area under precision-recall, OOD positive; average precision (step) by default.

    pytorch-ood, OpenOOD and FSSD integrate by trapezoids, outlier exposure and energy by steps.
    """
    return _aupr(count_scores(id_scores, ood_scores), trapezoid)


def aupr_in(id_scores: ArrayLike, ood_scores: ArrayLike, *, trapezoid: bool = False) -> float:
    """Area under precision-recall, ID positive (ranked by falling score)."""
    return _aupr(count_scores(id_scores, ood_scores).reversed(), trapezoid)


def fpr_at_id_acceptance(
    id_scores: ArrayLike, ood_scores: ArrayLike, acceptance: float = 0.95
) -> float:
    """ID side: accept at least `acceptance` of ID; the share of OOD accepted with it."""
    return _share_passed(count_scores(id_scores, ood_scores), acceptance)


def fpr_at_ood_detection(
    id_scores: ArrayLike, ood_scores: ArrayLike, detection: float = 0.95
) -> float:
    """OOD side: catch at least `detection` of OOD; the share of ID rejected with it."""
    return _share_passed(count_scores(id_scores, ood_scores).reversed(), detection)


def tnr_at_tpr(id_scores: ArrayLike, ood_scores: ArrayLike, tpr: float = 0.95) -> float:
    """Share of OOD rejected while at least `tpr` of ID is accepted."""
    return 1.0 - fpr_at_id_acceptance(id_scores, ood_scores, tpr)


def detection_error(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """Least mean of both error rates over all thresholds, so at most 0.5.  Descriptive only:
    the threshold is chosen with the test labels."""
    return _detection_error(count_scores(id_scores, ood_scores))


def realised_rates(
    id_scores: ArrayLike, ood_scores: ArrayLike, threshold: float
) -> tuple[float, float]:
    """What deployment sees: share of ID accepted (<= threshold), share of OOD rejected."""
    if math.isnan(threshold):
        raise ValueError("threshold is NaN")
    accepted = as_scores(id_scores, "ID scores") <= threshold
    rejected = as_scores(ood_scores, "OOD scores") > threshold
    return float(accepted.mean()), float(rejected.mean())


def evaluate_scores(id_scores: ArrayLike, ood_scores: ArrayLike, threshold: float) -> OodMetrics:
    """Test-ID scores (n,), test-OOD scores (m,), the threshold set on calibration ID -> all.

    Raises ValueError on empty input, NaN, or a wrong shape.
    """
    counts = count_scores(id_scores, ood_scores)
    id_acceptance, ood_rejection = realised_rates(id_scores, ood_scores, threshold)
    fpr95 = _share_passed(counts, 0.95)
    return OodMetrics(
        id_count=int(counts.id_counts.sum()),
        ood_count=int(counts.ood_counts.sum()),
        auroc=auroc_of(counts),
        aupr_out=_aupr(counts, trapezoid=False),
        aupr_in=_aupr(counts.reversed(), trapezoid=False),
        aupr_out_trapezoid=_aupr(counts, trapezoid=True),
        aupr_in_trapezoid=_aupr(counts.reversed(), trapezoid=True),
        fpr95_id_side=fpr95,
        fpr80_id_side=_share_passed(counts, 0.80),
        fpr95_ood_side=_share_passed(counts.reversed(), 0.95),
        tnr_at_tpr95=1.0 - fpr95,
        detection_error=_detection_error(counts),
        threshold=float(threshold),
        id_acceptance=id_acceptance,
        ood_rejection=ood_rejection,
    )


def auroc_of(counts: ScoreCounts) -> float:
    """Exact: one division of two whole numbers."""
    id_below = np.cumsum(counts.id_counts) - counts.id_counts
    doubled_wins = int(counts.ood_counts @ (2 * id_below + counts.id_counts))
    return doubled_wins / (2 * int(counts.id_counts.sum()) * int(counts.ood_counts.sum()))


def _aupr(counts: ScoreCounts, trapezoid: bool) -> float:
    caught = np.cumsum(counts.ood_counts[::-1])  # (U,), from the highest score down
    false_alarms = np.cumsum(counts.id_counts[::-1])
    precision = caught / (caught + false_alarms)
    recall = caught / caught[-1]
    if trapezoid:  # the curve starts at recall 0, precision 1
        return float(np.trapezoid(np.r_[1.0, precision], np.r_[0.0, recall]))
    return float(np.diff(recall, prepend=0.0) @ precision)


def _share_passed(counts: ScoreCounts, acceptance: float) -> float:
    if not 0 < acceptance <= 1:
        raise ValueError(f"the share to reach is {acceptance}; it must lie in (0, 1]")
    accepted_id = np.cumsum(counts.id_counts)
    accepted_ood = np.cumsum(counts.ood_counts)
    # n * 0.95 may land a rounding error above a whole number
    needed = math.ceil(int(accepted_id[-1]) * acceptance - 1e-9)
    at = int(np.searchsorted(accepted_id, needed))
    return int(accepted_ood[at]) / int(accepted_ood[-1])


def _detection_error(counts: ScoreCounts) -> float:
    tpr = np.cumsum(counts.id_counts) / counts.id_counts.sum()
    fpr = np.cumsum(counts.ood_counts) / counts.ood_counts.sum()
    return min(0.5, float(np.min(0.5 * (1.0 - tpr) + 0.5 * fpr)))
