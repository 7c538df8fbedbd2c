"""What an advice holds: frozen, JSON-serialisable.  Shares in 0..1; higher score = more OOD."""

from dataclasses import dataclass
from typing import Literal

FEWEST_TO_CHOOSE = 40  # outliers; half of them choose, half are reported

Interval = tuple[float, float]
Role = Literal["outliers", "proxy"]
Verdict = Literal[
    "decides", "member", "cheaper", "complements", "better", "alike", "equal", "worse"
]

# what a verdict means; those worth their price first
VERDICTS: dict[Verdict, str] = {
    "decides": "should decide",
    "cheaper": "does as well for less",
    "better": "catches more, at a price",
    "complements": "catches what the one that decides misses",
    "member": "part of the score that decides",
    "alike": "ranks as a cheaper one does",
    "equal": "does as well, adds nothing",
    "worse": "catches less",
}
WORTH: frozenset[Verdict] = frozenset({"decides", "member", "cheaper", "better", "complements"})


@dataclass(frozen=True)
class Share:
    """A share of `total` inputs, and its 95 % interval."""

    value: float
    total: int
    low: float
    high: float

    @property
    def count(self) -> int:
        return round(self.value * self.total)


@dataclass(frozen=True)
class Cost:
    """Of one graph with the detector over the classifier alone, batch 1, one thread: median and
    95 % interval; `microseconds`: what it adds to one input."""

    ratio: float
    low: float
    high: float
    microseconds: float


@dataclass(frozen=True)
class Caught:
    """One detector on one set of evidence, on the half that nothing was chosen on."""

    set: str
    role: Role
    detection: Share  # at the detector's threshold
    auroc: float
    auroc_interval: Interval  # DeLong, 95 %


@dataclass(frozen=True)
class Level:
    """One acceptance that the calibration can promise, for the detector that should decide.

    promised: where the true acceptance lies, 90 %; accepted: what held-out ID did; `allowed`: where
    that had to fall, 99 %; detection: the mean over the kinds of evidence.
    """

    acceptance: float
    threshold: float
    promised: Interval
    accepted: Share
    allowed: Interval
    detection: Share


@dataclass(frozen=True)
class Seen:
    """Unlabelled inputs by one detector.  at_least: a lower 95 % bound of the share of inputs that
    are unlike calibration-ID; `estimate`: where outliers say how much of OOD is seen."""

    flagged: Share
    expected: float  # what ID alone would show: 1 - acceptance
    at_least: float
    estimate: float | None = None
    estimate_interval: Interval | None = None


@dataclass(frozen=True)
class Opinion:
    """Everything about one detector.

    missing: detection of the detector that should decide minus that of this one, on the same inputs
    of the choosing half, with a 95 % interval; detection: the mean over the kinds of evidence, on
    what nothing was chosen on; only_here, only_id: shares of evidence and of ID that this one flags
    and the one that decides does not; alike: the cheaper one it ranks like, and the least rank
    correlation with it over all sets.
    """

    name: str
    verdict: Verdict
    on_demand: bool
    cost: Cost
    threshold: float
    missing: float
    missing_interval: Interval
    detection: Share
    only_here: Share
    only_id: Share
    caught: tuple[Caught, ...]
    seen: Seen | None = None
    alike: str | None = None
    correlation: float | None = None


@dataclass(frozen=True)
class Production:
    """What was said of unlabelled inputs: how many, whether they are captures (chosen by the
    service because they look OOD), and the bound over all detectors together."""

    origin: str
    count: int
    captures: bool
    at_least_by_any: float


@dataclass(frozen=True)
class ClassAlarm:
    """The class whose inputs are rejected most; the interval counts that it is the worst of all."""

    label: str
    rejected: Share


@dataclass(frozen=True)
class Advice:
    """opinions: worth their price first.  agreement: rank correlation on held-out ID, a row a
    detector in the order of `opinions`."""

    title: str
    bundle: str
    modality: str
    acceptance: float
    calibration_size: int
    id_origin: str
    counts: dict[str, int]
    decides: str
    primary: str
    chosen_on: str
    evidence: Role
    outliers: int | None  # how many were given
    opinions: tuple[Opinion, ...]
    levels: tuple[Level, ...]
    agreement: tuple[tuple[float, ...], ...]
    whole_cost: Cost
    lean_cost: Cost | None  # of what is worth its price in forward.onnx alone
    worst_class: ClassAlarm | None
    production: Production | None
    machine: dict[str, str]
    remarks: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def opinion(self, name: str) -> Opinion:
        """That of one detector; it is among them."""
        return next(one for one in self.opinions if one.name == name)
