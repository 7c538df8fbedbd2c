"""A model's drift in one line for whoever is on call."""

from collections.abc import Sequence
from datetime import datetime

from service.drift.report import SMALLEST_WINDOW, DetectorReport, LabelReport

_NAMED = 2  # detectors named one by one; of more the rest is counted


def summarise(
    primary: str, detectors: Sequence[DetectorReport], labels: LabelReport | None, now: datetime
) -> str:
    """`3.1x the expected OOD rate since 14:05 UTC; energy and fssd agree; predicted label 'ship'
    doubled`."""
    seen = [d for d in detectors if d.window is not None]
    if not seen:
        return "no inputs in the window"
    drifting = [d for d in seen if d.shiryaev_roberts.drifting]
    lead = _lead(primary, drifting or seen)
    parts: list[str] = []
    if drifting:
        parts.append(f"{_rate(lead)} since {_clock(lead.shiryaev_roberts.since, now)}")
        if lead.name != primary:
            parts[0] += f" by {lead.name}, not by {primary}"
        parts += _agreeing([d.name for d in drifting if d is not lead], len(seen))
    elif not any(d.window is not None and d.window.judged for d in seen):
        return f"too few inputs to judge: {_size(lead)} of {SMALLEST_WINDOW}"
    else:
        parts.append(f"quiet: {_rate(lead)} over the last {_size(lead):,} inputs")
        moved = [d.name for d in seen if _moved(d)]
        if moved:
            parts.append(f"the distribution of {_enumerate(moved)} scores moved")
    parts += _label_words(labels)
    return "; ".join(parts)


def _lead(primary: str, detectors: Sequence[DetectorReport]) -> DetectorReport:
    """The primary detector if it is among them, else the one with most OOD."""
    for detector in detectors:
        if detector.name == primary:
            return detector
    return max(detectors, key=lambda d: d.window.ood_rate.rate if d.window else 0.0)


def _size(detector: DetectorReport) -> int:
    return detector.window.size if detector.window else 0


def _rate(detector: DetectorReport) -> str:
    if detector.window is None:
        return "OOD rate unknown"
    rate = detector.window.ood_rate
    return f"{rate.rate / rate.expected:.1f}x the expected OOD rate"


def _moved(detector: DetectorReport) -> bool:
    window = detector.window
    return window is not None and (
        window.kolmogorov_smirnov.beyond or (window.psi is not None and window.psi.beyond)
    )


def _agreeing(names: Sequence[str], seen: int) -> list[str]:
    if names:
        return [f"{_enumerate(names)} {'agrees' if len(names) == 1 else 'agree'}"]
    return ["no other detector agrees"] if seen > 1 else []


def _enumerate(names: Sequence[str]) -> str:
    if len(names) > _NAMED + 1:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])


def _label_words(labels: LabelReport | None) -> list[str]:
    if labels is None or not labels.beyond or not labels.most_changed:
        return []
    most = labels.most_changed[0]
    if most.expected == 0:
        return [f"predicted label '{most.label}' is new"]
    ratio = most.share / most.expected
    if ratio == 0:
        change = "vanished"
    elif 1.8 <= ratio <= 2.2:
        change = "doubled"
    elif 0.45 <= ratio <= 0.55:
        change = "halved"
    else:
        change = f"is {ratio:.1f}x as frequent" if ratio >= 0.1 else "all but vanished"
    return [f"predicted label '{most.label}' {change}"]


def _clock(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "an unknown time"
    same_day = moment.date() == now.date()
    return moment.strftime("%H:%M UTC" if same_day else "%Y-%m-%d %H:%M UTC")
