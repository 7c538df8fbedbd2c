"""How many inputs of train-ID each detector needs, and how many make its estimates good.

A detector that is not named here estimates nothing of train-ID.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_CLASS_COVARIANCES = frozenset({"gda", "vmdls_b"})
_COVARIANCE_MEGABYTES = 500.0  # the detectors' own limit
_BYTES = 8
_TYPICAL = 1000  # for a mean or a percentile over all inputs
_NEIGHBOURS = 50  # what knn and nnguide ask for
_BANK = 2000
_TAIL = 20


@dataclass(frozen=True)
class Sizes:
    """classes: of the network; width: penultimate features; widest: of any tap, averaged over
    space; all_taps: the sum over the taps."""

    classes: int
    width: int
    widest: int
    all_taps: int


@dataclass(frozen=True)
class Need:
    """`inputs` at least, `a_class` at least of every class; from `advised` on it is good."""

    inputs: int
    a_class: int
    advised: int


# what a detector estimates of train-ID
NEEDS: Mapping[str, str] = {
    "ash_s": "lowest",
    "cop": "covariance",
    "corp": "covariance",
    "dice": "mean",
    "fdbd": "mean",
    "fssd": "class means",
    "gda": "class covariances",
    "kde": "bank",
    "kl_matching": "mean",
    "knn": "bank",
    "mahalanobis": "class means",
    "mahalanobis_normalised": "class means",
    "mahalanobis_perturbed": "class means",
    "mahalanobis_star": "class means",
    "nci": "mean",
    "nnguide": "bank",
    "openmax": "class tails",
    "react": "mean",
    "rmds": "class means",
    "scale": "lowest",
    "she": "patterns",
    "vim": "covariance",
    "vmdls_b": "class covariances",
}


def need_of(detector: str, sizes: Sizes) -> Need:
    """What the detector needs of a network of these sizes."""
    kind = NEEDS.get(detector)
    classes = sizes.classes
    if kind is None:
        return Need(0, 0, 0)
    if kind == "class means":  # of every layer, with one covariance for all classes
        return Need(2 * classes, 2, 2 * sizes.widest + 2 * classes)
    if kind == "class covariances":
        width = sizes.width if detector == "gda" else sizes.all_taps
        return Need(2 * classes, 2, 2 * width * classes)
    if kind == "class tails":
        return Need(3 * classes, 3, 2 * _TAIL * classes)
    if kind == "patterns":
        return Need(classes, 1, 10 * classes)
    if kind == "bank":
        return Need(2, 0, max(_BANK, 2 * _NEIGHBOURS * classes))
    if kind == "covariance":
        return Need(3, 0, 2 * sizes.width)
    return Need(1, 0, _TYPICAL)


def shortage(detector: str, sizes: Sizes, counts: Sequence[int]) -> str | None:
    """Why train-ID of so many inputs in each class cannot support the detector; None if it can."""
    need = need_of(detector, sizes)
    total = sum(counts)
    few = [position for position, count in enumerate(counts) if count < need.a_class]
    if few:
        shown = ", ".join(map(str, few[:5])) + (" ..." if len(few) > 5 else "")
        return (
            f"{detector} needs {need.a_class} inputs of each of {sizes.classes} classes to fit; "
            f"{len(few)} classes have fewer (positions {shown}; the smallest has {min(counts)})"
        )
    if total < need.inputs:
        return f"{detector} needs {need.inputs} inputs to fit; there are {total}"
    if detector in _CLASS_COVARIANCES:
        width = sizes.width if detector == "gda" else sizes.all_taps
        megabytes = sizes.classes * width * width * _BYTES / 1e6
        if megabytes > _COVARIANCE_MEGABYTES:
            return (
                f"{detector} keeps {sizes.classes} covariances of {width} features, "
                f"{megabytes:,.0f} MB; the limit is {_COVARIANCE_MEGABYTES:.0f} MB"
            )
    return None


def table(detectors: Sequence[str], sizes: Sizes, counts: Sequence[int]) -> list[str]:
    """One line a detector: what it needs, and what there is."""
    lines = [
        f"train-ID: {sum(counts):,} inputs, {min(counts)} to {max(counts)} in each of "
        f"{sizes.classes} classes; {sizes.width} penultimate features"
    ]
    for detector in detectors:
        need = need_of(detector, sizes)
        each = f", {need.a_class} of each class" if need.a_class else ""
        said = f"needs {need.inputs:,}{each}; good from {need.advised:,}"
        if need == Need(0, 0, 0):
            said = "needs none"
        thin = "" if sum(counts) >= need.advised else "  (fewer than advised)"
        lines.append(f"  {detector}: {said}{thin}")
    return lines
