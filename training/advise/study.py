"""One bundle, its data -> Advice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.bundle import DetectorSpec, read_calibration, threshold_at
from training.advise.choice import (
    alike_pairs,
    decider,
    difference,
    flags,
    half,
    mean_share,
    members_of,
    rank_agreement,
)
from training.advise.gather import Gathered, ScoredSet, Wanted, gather
from training.advise.mixture import LEVELS, estimated_ood_share, least_ood_share
from training.advise.prices import Prices
from training.advise.records import (
    FEWEST_TO_CHOOSE,
    VERDICTS,
    WORTH,
    Advice,
    Caught,
    ClassAlarm,
    Cost,
    Level,
    Opinion,
    Production,
    Role,
    Seen,
    Share,
    Verdict,
)
from training.advise.words import advice_in_words
from training.evaluate import Bundle
from training.evaluation.calibration import acceptance_interval, realised_interval
from training.evaluation.delong import delong_interval
from training.evaluation.intervals import wilson_interval
from training.evaluation.metrics import auroc
from training.reporting import machine

_ACCEPTANCES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_FEWEST_OF_A_CLASS = 5

Arrays = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class _Basis:
    """What everything below is worked out from; thresholds: at the wanted acceptance."""

    specs: tuple[DetectorSpec, ...]
    calibration: Mapping[str, NDArray[np.floating]]
    thresholds: Mapping[str, float]
    acceptance: float
    gathered: Gathered
    choosing: tuple[Arrays, ...]  # the kinds of evidence that are chosen on
    reported: tuple[Arrays, ...]  # those that give the figures
    chosen_on: Role
    role: Role

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]


def advise(
    bundle: Bundle, wanted: Wanted, acceptance: float, detectors: Sequence[str] | None = None
) -> Advice:
    """Everything that can be said of the bundle, by these data, at this acceptance.

    ValueError where the calibration cannot promise it, or a detector is not of the bundle.
    """
    specs = _chosen_specs(bundle, detectors)
    calibration = read_calibration(bundle.folder, bundle.manifest)
    for spec in specs:  # before minutes of scoring
        acceptance_interval(len(calibration[spec.name]), acceptance)
    gathered = gather(bundle, specs, wanted)
    basis = _basis(specs, calibration, acceptance, gathered)
    prices = Prices(bundle.folder, gathered.example)
    costs = prices.of_detectors(specs)
    primary = bundle.manifest.policy.primary
    forward = {
        spec.name: flags(basis.choosing, spec.name, basis.thresholds[spec.name])
        for spec in specs
        if not spec.on_demand
    }
    if not forward:
        raise ValueError("--detectors names only detectors on demand; add one that can decide")
    decides = decider(forward, primary, specs)
    opinions = _opinions(basis, decides, costs)
    kept = [spec for spec in specs if not spec.on_demand and _verdict(opinions, spec) in WORTH]
    every = [spec for spec in bundle.manifest.detectors if not spec.on_demand]
    together = prices.together(
        {"whole": every} | ({"lean": kept} if len(kept) < len(every) else {})
    )
    production = gathered.production
    advice = Advice(
        title=f"{bundle.manifest.name}: which detectors, which threshold, what to expect",
        bundle=bundle.label,
        modality=bundle.manifest.modality,
        acceptance=acceptance,
        calibration_size=len(calibration[decides]),
        id_origin=gathered.id_set.origin,
        counts=_counts(gathered),
        decides=decides,
        primary=primary,
        chosen_on=basis.chosen_on,
        evidence=basis.role,
        outliers=None if gathered.outliers is None else len(gathered.outliers),
        opinions=opinions,
        levels=_levels(basis, decides),
        agreement=tuple(
            tuple(round(float(value), 4) for value in row)
            for row in rank_agreement(gathered.id_set.scores, [one.name for one in opinions])
        ),
        whole_cost=together["whole"],
        lean_cost=together.get("lean"),
        worst_class=_worst_class(basis, decides, bundle.manifest.class_names),
        production=None if production is None else _production(basis, production),
        machine=machine(),
        remarks=(*gathered.remarks, *_bundle_remarks(bundle)),
    )
    return replace(advice, words=tuple(advice_in_words(advice)))


def _chosen_specs(bundle: Bundle, detectors: Sequence[str] | None) -> tuple[DetectorSpec, ...]:
    known = {spec.name: spec for spec in bundle.manifest.detectors}
    if detectors is None:
        return tuple(known.values())
    if unknown := sorted(set(detectors) - set(known)):
        raise ValueError(f"{bundle.label} has no {', '.join(unknown)}; it has {', '.join(known)}")
    return tuple(spec for name, spec in known.items() if name in detectors)


def _basis(
    specs: tuple[DetectorSpec, ...],
    calibration: Mapping[str, NDArray[np.floating]],
    acceptance: float,
    gathered: Gathered,
) -> _Basis:
    """What is chosen on is not reported: halves, or outliers too few to be chosen on."""
    outliers, proxies = gathered.outliers, gathered.proxies
    enough = outliers is not None and len(outliers) >= FEWEST_TO_CHOOSE
    chosen_on: Role = "outliers" if enough else "proxy"
    role: Role = "proxy" if outliers is None else "outliers"
    if outliers is None:
        reported = tuple(half(part.scores, 1) for part in proxies)
    else:
        reported = (half(outliers.scores, 1) if enough else dict(outliers.scores),)
    return _Basis(
        specs,
        calibration,
        {spec.name: threshold_at(calibration[spec.name], acceptance) for spec in specs},
        acceptance,
        gathered,
        tuple(half(part.scores, 0) for part in gathered.evidence(chosen_on)),
        reported,
        chosen_on,
        role,
    )


def _opinions(basis: _Basis, decides: str, costs: Mapping[str, Cost]) -> tuple[Opinion, ...]:
    gathered = basis.gathered
    own_choosing = flags(basis.choosing, decides, basis.thresholds[decides])
    sets = [gathered.id_set.scores, *(part.scores for part in gathered.proxies)]
    sets += [part.scores for part in (gathered.outliers, gathered.production) if part is not None]
    alike = alike_pairs(sets, basis.specs)
    members = members_of(decides, basis.specs)
    found: list[Opinion] = []
    for spec in basis.specs:
        name, threshold = spec.name, basis.thresholds[spec.name]
        missing, interval = difference(own_choosing, flags(basis.choosing, name, threshold))
        near, correlation = alike.get(name, (None, None))
        opinion = Opinion(
            name=name,
            verdict="decides",
            on_demand=spec.on_demand,
            cost=costs[name],
            threshold=threshold,
            missing=missing,
            missing_interval=interval,
            detection=mean_share(flags(basis.reported, name, threshold)),
            only_here=_only(basis.reported, name, decides, basis.thresholds),
            only_id=_only([gathered.id_set.scores], name, decides, basis.thresholds),
            caught=_caught(basis, name),
            seen=_seen(basis, name),
            alike=near,
            correlation=correlation,
        )
        if name != decides:
            verdict = judge(opinion, costs[decides], member=name in members)
            opinion = replace(opinion, verdict=verdict)
        found.append(opinion)
    order = list(VERDICTS)
    return tuple(
        sorted(found, key=lambda one: (order.index(one.verdict), -one.detection.value, one.name))
    )


def judge(opinion: Opinion, deciding: Cost, *, member: bool) -> Verdict:
    """What a detector is worth beside the one that decides, whose cost is `deciding`."""
    low, high = opinion.missing_interval
    as_good = low <= 0
    if high < 0:
        return "better"
    if as_good and opinion.cost.high < deciding.low and opinion.alike is None:
        return "cheaper"
    if member:
        return "member"
    if opinion.alike is not None:
        return "alike"
    if as_good:
        return "equal"
    return "complements" if opinion.only_here.low > opinion.only_id.high else "worse"


def _only(
    sets: Sequence[Arrays], name: str, decides: str, thresholds: Mapping[str, float]
) -> Share:
    """The share of inputs that `name` flags and the deciding one does not, over all kinds."""
    shortest = min(min(len(s[name]), len(s[decides])) for s in sets)
    each = [
        (s[name][:shortest] > thresholds[name]) & (s[decides][:shortest] <= thresholds[decides])
        for s in sets
    ]
    return mean_share(np.mean(each, axis=0))


def _caught(basis: _Basis, name: str) -> tuple[Caught, ...]:
    """Every set by itself: outliers first, then the proxies."""
    gathered = basis.gathered
    rows: list[tuple[ScoredSet, Role, NDArray[np.float64]]] = []
    if gathered.outliers is not None:
        rows.append((gathered.outliers, "outliers", basis.reported[0][name]))
    for part in gathered.proxies:
        values = part.scores[name]
        rows.append((part, "proxy", values[1::2] if basis.chosen_on == "proxy" else values))
    id_scores = gathered.id_set.scores[name]
    return tuple(
        Caught(
            part.name,
            role,
            mean_share((values > basis.thresholds[name]).astype(np.float64)),
            auroc(id_scores, values),
            delong_interval(id_scores, values),
        )
        for part, role, values in rows
    )


def _seen(basis: _Basis, name: str) -> Seen | None:
    production, threshold = basis.gathered.production, basis.thresholds[name]
    if production is None:
        return None
    scores = production.scores[name]
    flagged = mean_share((scores > threshold).astype(np.float64))
    expected = 1 - basis.acceptance
    if basis.gathered.captures:
        return Seen(flagged, expected, 0.0)
    at_least = least_ood_share(basis.calibration[name], scores, sorted({*LEVELS, basis.acceptance}))
    estimate = None
    if basis.role == "outliers":
        id_flagged = (basis.gathered.id_set.scores[name] > threshold).astype(np.float64)
        caught = (basis.reported[0][name] > threshold).astype(np.float64)
        estimate = estimated_ood_share(mean_share(id_flagged), mean_share(caught), flagged)
    value, interval = (None, None) if estimate is None else estimate
    return Seen(flagged, expected, at_least, value, interval)


def _production(basis: _Basis, production: ScoredSet) -> Production:
    levels = sorted({*LEVELS, basis.acceptance})
    coverage = 1 - 0.05 / len(basis.specs)
    by_any = 0.0
    if not basis.gathered.captures:
        by_any = max(
            least_ood_share(basis.calibration[name], production.scores[name], levels, coverage)
            for name in basis.names
        )
    return Production(production.origin, len(production), basis.gathered.captures, by_any)


def _levels(basis: _Basis, decides: str) -> tuple[Level, ...]:
    calibration = basis.calibration[decides]
    id_scores = basis.gathered.id_set.scores[decides]
    found: list[Level] = []
    for acceptance in sorted({*_ACCEPTANCES, basis.acceptance}):
        threshold = threshold_at(calibration, acceptance)
        if np.isinf(threshold):
            continue
        found.append(
            Level(
                acceptance,
                threshold,
                acceptance_interval(len(calibration), acceptance),
                mean_share((id_scores <= threshold).astype(np.float64)),
                realised_interval(len(calibration), len(id_scores), acceptance),
                mean_share(flags(basis.reported, decides, threshold)),
            )
        )
    return tuple(found)


def _worst_class(basis: _Basis, decides: str, class_names: Sequence[str]) -> ClassAlarm | None:
    """Of labelled ID: the class with the largest share rejected.  None without labels."""
    id_set = basis.gathered.id_set
    flagged = id_set.scores[decides] > basis.thresholds[decides]
    shares: dict[int, Share] = {}
    labels = [c for c in np.unique(id_set.labels).tolist() if 0 <= c < len(class_names)]
    for label in labels:
        own = flagged[id_set.labels == label]
        if len(own) >= _FEWEST_OF_A_CLASS:
            interval = wilson_interval(int(own.sum()), len(own), 1 - 0.05 / len(labels))
            shares[label] = Share(float(own.mean()), len(own), *interval)
    if len(shares) < 2:
        return None
    worst = max(shares, key=lambda label: shares[label].value)
    return ClassAlarm(class_names[worst], shares[worst])


def _counts(gathered: Gathered) -> dict[str, int]:
    counts = {"held-out ID": len(gathered.id_set)}
    if gathered.outliers is not None:
        counts["outliers"] = len(gathered.outliers)
    if gathered.production is not None:
        counts["production"] = len(gathered.production)
    return counts | {"of each proxy": len(gathered.proxies[0])}


def _bundle_remarks(bundle: Bundle) -> list[str]:
    found = []
    if bundle.manifest.calibration_classes is not None:
        found.append(
            "The bundle has thresholds by predicted class; figures here are those of the one "
            "threshold for all classes together."
        )
    learnt = [
        spec.name
        for spec in bundle.manifest.detectors
        if spec.hyperparameters.get("learnt_on_proxy_outliers", "none") != "none"
    ]
    if learnt:
        found.append(
            "The weights of these scores were learnt on proxy outliers of the same kinds, so "
            f"proxies flatter them: {', '.join(learnt)}."
        )
    return found


def _verdict(opinions: Sequence[Opinion], spec: DetectorSpec) -> Verdict:
    return next(one.verdict for one in opinions if one.name == spec.name)
