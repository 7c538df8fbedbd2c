"""Sections of docs/results.md: one trained network a seed, or one study."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page_blocks import table
from training.evaluation.intervals import student_interval
from training.evaluation.records import PUBLISHED_TOLERANCE, Published, Report, Row
from training.evaluation.report import read_report
from training.published import PUBLISHED_MEANS, PublishedMean

_SHOWN = 8  # scores beside msp, energy and the one that decides
_ALWAYS = ("msp", "energy")
_ENOUGH = 3  # seeds for an interval
_METRICS = {
    "auroc": "AUROC",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
    "detection_error": "detection error",
    "fpr80_id_side": "FPR at 80 % of ID accepted",
    "fpr95_id_side": "FPR at 95 % of ID accepted",
    "fpr95_ood_side": "ID rejected at 95 % of OOD caught",
    "macro_f1": "macro-F1",
}


def network_block(path: Path) -> str:
    """Of a report.json: what it was measured on, the published figures, the best scores."""
    report = read_report(path)
    parts = [_about_report(report), _scores(report)]
    published = [(row, each) for row in report.rows for each in row.published]
    if published:
        parts.append(_published(published))
    remarks = [remark for remark in report.remarks if not _of_one_set(remark, report)]
    parts.append("".join(f"- {remark}\n" for remark in remarks))
    return "\n".join(part for part in parts if part)


def _of_one_set(remark: str, report: Report) -> bool:
    """Lengths of the texts of one set, which the report itself is for."""
    return "tokens a text (median)" in remark


def _about_report(report: Report) -> str:
    accuracy = "" if report.test_accuracy is None else f"accuracy {_percent(report.test_accuracy)}"
    roles = ("train_id", "dev_id", "cal_id", "test_id")
    counts = ", ".join(f"{report.counts[role]:,} {role}" for role in roles)
    backbone = report.config["backbone"]
    return (
        f"`{backbone}`, {accuracy} on test-ID; {_seeds(report.seeds)}; {counts}.\n"
        f"{_machine(report.machine, report.libraries)}\n"
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _machine(machine: Mapping[str, str], libraries: Mapping[str, str]) -> str:
    commit = machine.get("commit", "not recorded")
    gpu = "" if machine["accelerator"] == "none" else f", {machine['accelerator']}"
    return (
        f"{machine['processor']}, {machine['cores']} cores{gpu}; torch {libraries['torch']}; "
        f"commit {commit}."
    )


def _scores(report: Report) -> str:
    """AUROC on every set, the best means first."""
    names = [record.name for record in report.detectors]
    ranked = sorted(names, key=lambda name: -(report.macro_auroc(name) or 0.0))
    shown = set(ranked[:_SHOWN]) | {report.primary} | {n for n in _ALWAYS if n in names}
    sets = [*report.sets("ood"), *report.sets("control")]
    header = ["score", "mean"]
    header += [s.name if s.role == "ood" else f"{s.name} (control)" for s in sets]
    rows: list[Sequence[str]] = []
    for name in ranked:
        if name not in shown:
            continue
        cells = [_cell(report.row(each.name, name)) for each in sets]
        mean = report.macro_auroc(name)
        mark = " (decides)" if name == report.primary else ""
        rows.append([f"`{name}`{mark}", "" if mean is None else _percent(mean), *cells])
    left = len(names) - len(rows)
    more = f"\n{left} further scores are in the report.\n" if left else ""
    return table(header, rows) + more


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    low, high = row.auroc_interval
    return f"{_percent(row.metrics.auroc)} [{_percent(low)}, {_percent(high)}]"


def _published(found: Sequence[tuple[Row, Published]]) -> str:
    rows: list[Sequence[str]] = []
    explained: dict[str, str] = {}
    for row, published in found:
        gap = row.difference(published)
        mark = ""
        if abs(gap) > PUBLISHED_TOLERANCE:
            number = explained.setdefault(published.explanation, str(len(explained) + 1))
            mark = f" ({number})"
        rows.append(
            [
                row.ood_set,
                f"`{row.detector}`",
                _METRICS[published.metric],
                _percent(getattr(row.metrics, published.metric)),
                _percent(published.value),
                f"{100 * gap:+.1f}{mark}",
                published.source,
            ]
        )
    header = ("OOD set", "score", "metric", "ours", "published", "difference", "source")
    notes = "".join(f"\n({number}) {words}\n" for words, number in explained.items())
    return table(header, rows) + notes


def study_block(path: Path) -> str:
    """Of a study.json: accuracy, AUROC a mean over the sets, figures published of its arms."""
    found = json.loads(path.read_text(encoding="utf-8"))
    arms: Mapping[str, Any] = found["arms"]
    measured = [seed for arm in arms.values() for seed in arm["by_seed"].values()]
    detectors = _named(measured)
    rows: list[Sequence[str]] = []
    for name, arm in arms.items():
        seeds = list(arm["by_seed"].values())
        cells = [_mean([_macro(seed, each, "auroc") for seed in seeds]) for each in detectors]
        accuracy = _mean([seed["accuracy"] for seed in seeds])
        rows.append([f"`{name}`", arm["what"], accuracy, ", ".join(arm["by_seed"]), *cells])
    header = ["arm", "what", "accuracy", "seeds", *(f"AUROC `{each}`" for each in detectors)]
    commits = sorted({seed.get("commit", "not recorded") for seed in measured})
    about = (
        f"{found['title']}: {measured[0]['counts']['train_id']:,} training inputs; AUROC is a mean "
        f"over {', '.join(measured[0]['metrics'])}.\n"
        f"{_machine({**found['machine'], 'commit': ', '.join(commits)}, found['libraries'])}\n"
    )
    parts = [about, table(header, rows)]
    known = [mean for mean in PUBLISHED_MEANS.get(path.parent.name, ()) if mean.arm in arms]
    if known:
        parts.append(_published_means(known, arms))
    return "\n".join(parts)


def _named(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    """Scores that every arm has, without those of single layers."""
    given = [set(next(iter(seed["metrics"].values()))) for seed in measured]
    detectors = {entry["name"] for seed in measured for entry in seed["config"]["detectors"]}
    named = set.intersection(*given) & (detectors | {f"{name}_density" for name in detectors})
    return [name for name in next(iter(measured[0]["metrics"].values())) if name in named]


def _published_means(known: Sequence[PublishedMean], arms: Mapping[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    for mean in known:
        seeds = list(arms[mean.arm]["by_seed"].values())
        sets = [name for name in mean.sets if name in seeds[0]["metrics"]]
        for metric, value in mean.metrics.items():
            ours = _mean([_macro(s, mean.detector, metric, sets) for s in seeds]) if sets else ""
            over = ", ".join(sets) if len(sets) < len(mean.sets) else "all that are published"
            arm = f"`{mean.arm}`"
            words = [arm, f"`{mean.detector}`", _METRICS[metric], over]
            rows.append([*words, ours, f"{value:.1f}", mean.source])
    return table(("arm", "score", "metric", "sets", "ours", "published", "source"), rows)


def _macro(
    seed: Mapping[str, Any], detector: str, metric: str, sets: Sequence[str] | None = None
) -> float:
    """The mean over the sets; macro-F1 at the threshold that keeps 95 % of train, as published."""
    if metric == "macro_f1":
        found = {name: by[detector]["train"] for name, by in seed["open_set"].items()}
    else:
        found = {name: by[detector][metric] for name, by in seed["metrics"].items()}
    return float(np.mean([found[name] for name in (sets or found)]))


def _mean(values: Sequence[float]) -> str:
    text = _percent(float(np.mean(values)))
    if len(values) < _ENOUGH:
        return text
    low, high = student_interval(values)
    return f"{text} [{_percent(low)}, {_percent(high)}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
