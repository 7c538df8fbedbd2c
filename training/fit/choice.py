"""Detectors by default: what suits the network, and what the data can support."""

from collections.abc import Sequence

from training.config import CombinerConfig, DetectorConfig
from training.fit.needs import Sizes, shortage
from training.progress import say

# One pass over the network gives all of them.  Together they read the logits, the penultimate
# features with and without class labels, and every tapped layer.
DEFAULTS = ("msp", "max_logit", "energy", "gen", "vim", "knn", "mahalanobis", "rmds")
# In the order in which they become members of the score that decides.
_LAYERED = "mahalanobis"
_COMBINED = ("knn", "rmds", "vim", "energy")


def default_detectors(sizes: Sizes, counts: Sequence[int]) -> list[str]:
    """Those of DEFAULTS that the data can support; says which not, and why."""
    found: list[str] = []
    for name in DEFAULTS:
        reason = shortage(name, sizes, counts)
        if reason is None:
            found.append(name)
        else:
            say(f"left out: {reason}")
    return found


def check_detectors(names: Sequence[str], sizes: Sizes, counts: Sequence[int]) -> None:
    """ValueError with every reason why the data cannot support detectors that were asked for."""
    reasons = [reason for name in names if (reason := shortage(name, sizes, counts))]
    if reasons:
        raise ValueError(
            "the data cannot support what --detectors names: "
            + "; ".join(reasons)
            + ". Leave them out, or give more data"
        )


def combiners_for(
    detectors: Sequence[DetectorConfig], taps: Sequence[str]
) -> tuple[tuple[CombinerConfig, ...], str]:
    """`mahalanobis_ensemble` over the layers, `combined` of it and others; and the primary."""
    names = [entry.name for entry in detectors]
    found: list[CombinerConfig] = []
    members = [name for name in _COMBINED if name in names]
    if _LAYERED in names:
        layers = tuple(f"{_LAYERED}_{tap}" for tap in taps)
        if layers:
            ensemble = f"{_LAYERED}_ensemble"
            found.append(CombinerConfig(name=ensemble, members=(*layers, _LAYERED)))
            members.insert(0, ensemble)
        else:
            members.insert(0, _LAYERED)
    if len(members) < 2:
        return tuple(found), members[0] if members else names[0]
    found.append(CombinerConfig(name="combined", members=tuple(members)))
    return tuple(found), "combined"
