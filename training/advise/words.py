"""An advice in plain sentences, one a line."""

from collections.abc import Sequence

from training.advise.records import (
    FEWEST_TO_CHOOSE,
    WORTH,
    Advice,
    Caught,
    Interval,
    Opinion,
    Share,
)

_SEVERAL = 6  # names in one sentence
_UNEVEN = 1.5  # times the promised share rejected, for sure, is worth a sentence
_GOOD_COUNT = 100  # outliers whose share caught is known to within ten points


def advice_in_words(advice: Advice) -> list[str]:
    """What should decide, what to expect of it, what it costs; then production and warnings."""
    found = [
        *_decision(advice),
        _acceptance(advice),
        *_detection(advice),
        *_threshold(advice),
        *_price(advice),
        *_others(advice),
    ]
    if advice.production is not None:
        found.extend(_production(advice))
    if advice.worst_class is not None:
        found.extend(_class(advice))
    return found


def _decision(advice: Advice) -> list[str]:
    own = advice.opinion(advice.decides)
    threshold = f"at an acceptance of {_per_cent(advice.acceptance)} its threshold is"
    basis = (
        "half of the given outliers"
        if advice.chosen_on == "outliers"
        else "half of the proxies, which are outliers made by code,"
    )
    if advice.decides == advice.primary:
        return [
            f"{advice.decides} should go on deciding; {threshold} {own.threshold:.6g}. By {basis} "
            "no other detector that could decide is better for sure."
        ]
    if all(one.name != advice.primary for one in advice.opinions):
        return [
            f"Of the detectors asked for {own.name} should decide; {threshold} "
            f"{own.threshold:.6g}. The choice was made by {basis}."
        ]
    before = advice.opinion(advice.primary)
    low, high = before.missing_interval
    found = [
        f"{own.name} should decide in place of {advice.primary}; {threshold} {own.threshold:.6g}. "
        f"By {basis} it catches {_points(before.missing)} more ({_points(low)} to {_points(high)})."
        f' Name it in requests (detectors={own.name}), or set primary = "{own.name}" in the run '
        "config and run it again."
    ]
    if advice.chosen_on == "proxy":
        found.append("Real outliers may not agree: check it on some before you change anything.")
    return found


def _acceptance(advice: Advice) -> str:
    level = next(one for one in advice.levels if one.acceptance == advice.acceptance)
    low, high = level.promised
    said = (
        f"Of new ID inputs {advice.decides} accepts {_per_cent(low)} to {_per_cent(high)} (90 %; "
        f"{advice.calibration_size:,} calibration scores promise no more); of "
        f"{level.accepted.total:,} held-out ID inputs it accepted {_shown(level.accepted)}."
    )
    if level.allowed[0] <= level.accepted.value <= level.allowed[1]:
        return said
    return (
        f"{said} Chance allows {_range(level.allowed)} (99 %): these ID inputs are not like those "
        "of the calibration. Calibrate on data like them before you trust a threshold."
    )


def _detection(advice: Advice) -> list[str]:
    own = advice.opinion(advice.decides)
    proxies = [one for one in own.caught if one.role == "proxy"]
    hardest = min(proxies, key=lambda one: one.detection.value)
    easiest = max(proxies, key=lambda one: one.detection.value)
    kinds = (
        f"from {_per_cent(hardest.detection.value)} ({hardest.set}) to "
        f"{_per_cent(easiest.detection.value)} ({easiest.set})"
    )
    if advice.outliers is None:
        return [
            f"Of {len(proxies)} kinds of proxies it catches {_shown(own.detection)} on average, "
            f"{kinds}. Proxies show which detectors work at all, not how much of your OOD will be "
            f"caught: {_GOOD_COUNT} real outliers say that to within ten points."
        ]
    real = next(one for one in own.caught if one.role == "outliers")
    found = [_real(advice, real), f"Of the proxies it catches {kinds}."]
    if advice.outliers < FEWEST_TO_CHOOSE:
        found.append(
            f"{advice.outliers} outliers are too few to choose a detector by: that takes "
            f"{FEWEST_TO_CHOOSE}, and {_GOOD_COUNT} tell the share caught to within ten points."
        )
    return found


def _real(advice: Advice, real: Caught) -> str:
    half = "" if advice.chosen_on == "proxy" else " that nothing was chosen on"
    return (
        f"Of {real.detection.total:,} given outliers{half} it catches {_shown(real.detection)}; "
        f"AUROC {100 * real.auroc:.1f} ({100 * real.auroc_interval[0]:.1f} to "
        f"{100 * real.auroc_interval[1]:.1f}). That holds for outliers like these."
    )


def _threshold(advice: Advice) -> list[str]:
    """What other acceptances cost."""
    here = next(one for one in advice.levels if one.acceptance == advice.acceptance)
    others = [one for one in advice.levels if one.acceptance != advice.acceptance]
    stricter = [one for one in others if one.acceptance > advice.acceptance][:2]
    looser = [one for one in others if one.acceptance < advice.acceptance][-1:]
    shown = "; ".join(
        f"{_per_cent(one.acceptance)} accepted (threshold {one.threshold:.6g}) catches "
        f"{_per_cent(one.detection.value)}"
        for one in (*looser, *stricter)
    )
    if not shown:
        return []
    return [
        f"Against {_per_cent(here.detection.value)} caught at {_per_cent(here.acceptance)}: "
        f"{shown}. A request may name any of them (id_acceptance)."
    ]


def _price(advice: Advice) -> list[str]:
    whole, lean = advice.whole_cost, advice.lean_cost
    found = [
        f"A request costs {whole.ratio:.2f} times the classifier alone ({whole.low:.2f} to "
        f"{whole.high:.2f}; batch 1, one thread), whatever it asks of forward.onnx."
    ]
    if lean is not None and lean.high < whole.low:
        kept = [one.name for one in advice.opinions if one.verdict in WORTH and not one.on_demand]
        found[0] += (
            f" With only what is worth its price it would be {lean.ratio:.2f}: fit again with "
            f"the detectors behind {_listed(kept)}."
        )
    return found


def _others(advice: Advice) -> list[str]:
    found: list[str] = []
    own = advice.opinion(advice.decides)
    cheaper = [one for one in advice.opinions if one.verdict == "cheaper"]
    if cheaper:
        best = cheaper[0]
        found.append(
            f"{_listed([one.name for one in cheaper])} did no worse for sure and cost less: "
            f"{best.name} catches {_shown(best.detection)} for {best.cost.ratio:.2f} times the "
            f"classifier, {own.name} for {own.cost.ratio:.2f}."
        )
    for one in [one for one in advice.opinions if one.verdict == "better"][:2]:
        gain = (-one.missing_interval[1], -one.missing_interval[0])
        found.append(
            f"{one.name} catches {_points(-one.missing)} more ({_points(gain[0])} to "
            f"{_points(gain[1])}) for {one.cost.ratio:.1f} times the classifier; "
            + ("name it where an answer matters most." if one.on_demand else "it could decide.")
        )
    adds = [one for one in advice.opinions if one.verdict == "complements"]
    if adds:
        most = max(adds, key=lambda one: one.only_here.value)
        found.append(
            f"{_listed([one.name for one in adds])} catch{'es' if len(adds) == 1 else ''} what "
            f"{own.name} misses: {most.name} {_per_cent(most.only_here.value)} of the evidence, "
            f"and {_per_cent(most.only_id.value)} of ID besides. A combiner in the run config can "
            "join them."
        )
    alike = [one for one in advice.opinions if one.verdict == "alike"]
    if alike:
        pairs = [f"{one.name} as {one.alike}" for one in alike]
        found.append(f"These rank everything as a cheaper one does: {_listed(pairs)}.")
    worse = [one for one in advice.opinions if one.verdict == "worse"]
    if worse:
        found.append(
            f"{len(worse)} of {len(advice.opinions)} detectors catch less and add nothing, the "
            f"weakest {worse[-1].name} ({_per_cent(worse[-1].detection.value)})."
        )
    return found


def _production(advice: Advice) -> list[str]:
    production, own = advice.production, advice.opinion(advice.decides)
    assert production is not None  # noqa: S101
    assert own.seen is not None  # noqa: S101
    if production.captures:
        agreeing = [
            one.name for one in advice.opinions if one.seen and one.seen.flagged.value > 0.5
        ]
        return [
            f"The {production.count:,} production inputs are captures: they were kept because the "
            "served bundle found them OOD, so they say nothing of how much OOD there is. "
            f"{own.name} flags {_shown(own.seen.flagged)} of them; {len(agreeing)} of "
            f"{len(advice.opinions)} detectors flag more than half."
        ]
    found = [
        f"Of {production.count:,} production inputs {own.name} flags {_shown(own.seen.flagged)}; "
        f"ID alone would show {_per_cent(own.seen.expected)}."
    ]
    saying = [one for one in advice.opinions if one.seen and one.seen.at_least > 0]
    if not saying:
        found.append(
            "No detector finds evidence of OOD among them: there is none, too little to tell by "
            "so few inputs, or it looks like ID."
        )
        return found
    found.append(
        f"At least {_per_cent(own.seen.at_least)} of them are unlike the calibration inputs "
        f"(95 % sure), by {own.name}; by any detector, corrected for looking at all, at least "
        f"{_per_cent(production.at_least_by_any)}. {len(saying)} of {len(advice.opinions)} "
        f"detectors say more than nothing, most of all {_loudest(saying)}. Unlike is a new "
        "kind of input, or ID that has changed: look at those with the highest scores."
    )
    if own.seen.estimate is not None and own.seen.estimate_interval is not None:
        found.append(
            f"If OOD there is caught as the given outliers are, {_per_cent(own.seen.estimate)} of "
            f"production is OOD ({_range(own.seen.estimate_interval)})."
        )
    return found


def _loudest(saying: Sequence[Opinion]) -> str:
    order = sorted(saying, key=lambda one: -(one.seen.at_least if one.seen else 0.0))
    return _listed([one.name for one in order], 3)


def _class(advice: Advice) -> list[str]:
    worst = advice.worst_class
    assert worst is not None  # noqa: S101
    if worst.rejected.low <= _UNEVEN * (1 - advice.acceptance):
        return []
    return [
        f"Not every class is accepted alike: of {worst.rejected.total} inputs of {worst.label!r} "
        f"{_shown(worst.rejected)} are rejected. thresholds_by_class in the run config sets a "
        "threshold for each predicted class."
    ]


def _listed(names: Sequence[str], most: int = _SEVERAL) -> str:
    rest = len(names) - most
    shown = ", ".join(names[:most])
    return f"{shown} and {rest} more" if rest > 0 else shown


def _shown(share: Share) -> str:
    return f"{_per_cent(share.value)} ({_range((share.low, share.high))})"


def _range(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _per_cent(share: float) -> str:
    return f"{round(100 * share, 1):g} %"


def _points(difference: float) -> str:
    return f"{round(100 * difference, 1):g} points"
