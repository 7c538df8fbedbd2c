"""What networks that come as a file share: names for their taps, the number of their classes."""

import re
from collections.abc import Iterable, Mapping, Sequence

from training.backbones.tapped import listed

_LONGEST_TAP = 40


def tap_names(places: Sequence[str]) -> dict[str, str]:
    """Names fit for scores, made of the ends of the places' names -> the places."""
    found: dict[str, str] = {}
    for place in places:
        words = re.sub(r"\W+", "_", place.removesuffix("_output_0")).lower().strip("_")
        name = words[-_LONGEST_TAP:].lstrip("_") or "tap"
        while name in found:
            name = f"{name[: _LONGEST_TAP - 2]}_{len(found)}"
        found[name] = place
    return found


def named_taps(
    file: str, taps: Mapping[str, str] | Sequence[str], known: Iterable[str], kind: str
) -> dict[str, str]:
    """Tap name -> place in the graph; ValueError names those that the file does not have."""
    named = dict(taps) if isinstance(taps, Mapping) else tap_names(taps)
    known = list(known)
    if unknown := sorted(set(named.values()) - set(known)):
        raise ValueError(f"{file}: has no {kind} {unknown}; there are: {listed(known)}")
    return named


def check_classes(file: str, logits: int, classes: int | None) -> None:
    """`classes`: of the data, None where they are not known yet."""
    if classes is not None and logits != classes:
        raise ValueError(f"{file}: gives {mismatch(logits, classes)}")


def mismatch(logits: int, classes: int) -> str:
    """How many there are of each, and what to do."""
    if logits == 1:
        return (
            f"one logit, the data have {classes} classes; one logit x of two classes is the two "
            "logits 0 and x: give the network a head with two rows, the first of zeros"
        )
    return (
        f"{logits} logits, the data have {classes} classes; name the network's classes in the "
        "order of its logits (--classes, class_names), or give data of all of them"
    )
