"""Which detectors are as good as the best, which rank alike, what one adds to another.

Sets of evidence are cut in halves, by turns: one is chosen on, the other is reported.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from service.bundle import DetectorSpec
from training.advise.records import Interval, Share
from training.evaluation.intervals import student_interval, wilson_interval
from training.scorer import COSTS

ALIKE = 0.95  # rank correlation from which two detectors say the same
_COVERAGE = 0.95

Scores = Mapping[str, NDArray[np.float64]]  # detector -> (n,)


def half(scores: Scores, which: int) -> dict[str, NDArray[np.float64]]:
    """Every second input, from the first (0: to choose on) or from the second (1: to report)."""
    return {name: values[which::2] for name, values in scores.items()}


def flags(sets: Sequence[Scores], detector: str, threshold: float) -> NDArray[np.float64]:
    """The share of the kinds of evidence in which input i is flagged (n,); NaN-free.

    Sets are of one length, each input of one made of the same as that of the others.
    """
    shortest = min(len(scores[detector]) for scores in sets)
    return np.mean([scores[detector][:shortest] > threshold for scores in sets], axis=0)


def mean_share(values: NDArray[np.float64]) -> Share:
    """Values in 0..1, one an input -> their mean; Wilson's interval of yes and no, Student's of
    means over several kinds, whose answers for one input hang together."""
    mean = float(values.mean())
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    if binary or len(values) < 2:
        low, high = wilson_interval(round(mean * len(values)), len(values))
    else:
        low, high = student_interval(values.tolist())
    return Share(mean, len(values), low, high)


def difference(better: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, Interval]:
    """Mean of `better` - `other` over the inputs both have, and Student's 95 % interval."""
    common = min(len(better), len(other))
    gaps = better[:common] - other[:common]
    mean = float(gaps.mean())
    if common < 2:
        return mean, (-1.0, 1.0)
    spread = float(np.std(gaps, ddof=1)) / common**0.5
    reach = float(stats.t.ppf((1 + _COVERAGE) / 2, common - 1)) * spread
    return mean, (max(-1.0, mean - reach), min(1.0, mean + reach))


def as_good_as_the_best(caught: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Detector -> values as of `flags`; those that the best is not ahead of for sure, the best
    first."""
    order = sorted(caught, key=lambda name: -float(caught[name].mean()))
    best = order[0]
    return [name for name in order if difference(caught[best], caught[name])[1][0] <= 0]


def decider(
    caught: Mapping[str, NDArray[np.float64]], primary: str, specs: Sequence[DetectorSpec]
) -> str:
    """The detector that should decide: the bundle's own choice unless another is better for sure;
    then the cheapest of those that are as good as the best.  `caught`: of forward.onnx only."""
    good = as_good_as_the_best(caught)
    return primary if primary in good else min(good, key=lambda name: cheapness(name, specs))


def cheapness(name: str, specs: Sequence[DetectorSpec]) -> tuple[int, int]:
    """What a detector reads, then its place in the bundle: a price no timing moves."""
    names = [spec.name for spec in specs]
    return COSTS.index(specs[names.index(name)].cost), names.index(name)


def members_of(name: str, specs: Sequence[DetectorSpec]) -> set[str]:
    """The scores that a combined score is made of, and those they are made of."""
    known = {spec.name: spec for spec in specs}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        spec = known.get(waiting.pop())
        keys = [] if spec is None else list(spec.hyperparameters)
        parts = {key.removeprefix("weight_") for key in keys if key.startswith("weight_")}
        waiting.extend(sorted((parts & set(known)) - found))
        found |= parts & set(known)
    return found - {name}


def rank_agreement(scores: Scores, names: Sequence[str]) -> NDArray[np.float64]:
    """Spearman's rank correlation of each pair (D, D), over the inputs both have scored; 0 where a
    detector gives all inputs the same score."""
    lengths = np.array([len(scores[name]) for name in names])
    found = np.zeros((len(names), len(names)))
    for length in np.unique(lengths):
        enough = lengths >= length
        ranks = [
            stats.rankdata(scores[n][:length]) for n, e in zip(names, enough, strict=True) if e
        ]
        with np.errstate(invalid="ignore", divide="ignore"):
            block = np.nan_to_num(np.atleast_2d(np.corrcoef(ranks)))
        pairs = np.minimum.outer(lengths[enough], lengths[enough]) == length
        within = found[np.ix_(enough, enough)]
        found[np.ix_(enough, enough)] = np.where(pairs, block, within)
    np.fill_diagonal(found, 1.0)
    return found


def alike_pairs(
    sets: Sequence[Scores], specs: Sequence[DetectorSpec]
) -> dict[str, tuple[str, float]]:
    """Detector -> a cheaper one that ranks every set alike, and the least correlation with it.

    The cheaper one is itself like none that is cheaper still.
    """
    names = [spec.name for spec in specs]
    least = np.min([rank_agreement(scores, names) for scores in sets], axis=0)
    order = sorted(range(len(names)), key=lambda i: cheapness(names[i], specs))
    kept: list[int] = []
    found: dict[str, tuple[str, float]] = {}
    for i in order:
        near = max(kept, key=lambda j: least[i, j], default=None)
        if near is not None and least[i, near] >= ALIKE:
            found[names[i]] = names[near], float(least[i, near])
        else:
            kept.append(i)
    return found
