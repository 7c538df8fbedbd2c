"""The report as one self-contained page: no script, no outside asset, light and dark."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from training.evaluation.html_tables import (
    COLUMNS,
    calibration_tables,
    controls_table,
    detector_label,
    detectors_table,
    metric_value,
    price_table,
    provenance,
    published_table,
)
from training.evaluation.markup import (
    Cell,
    best_of,
    bullets,
    labelled_list,
    page,
    per_cent,
    picture,
    section,
    table,
)
from training.evaluation.mistakes import Mistakes
from training.evaluation.mistakes_page import mistakes_section
from training.evaluation.records import OodSet, Report, Row

_READING = (
    "AUROC: chance is 50. AUPR: chance is the share of the positive side, so mind the counts"
    " (average precision; the trapezoid variants are in report.json). FPR95 ID side: OOD accepted"
    " while 95 % of ID is. FPR95 OOD side: ID rejected while 95 % of OOD is caught. Detection"
    " error: least mean error over all thresholds, chosen on the test labels. ID accepted and OOD"
    " rejected at τ are what a deployment sees. The 95 % interval is of this network on these"
    " test sets, not of another training run."
)


def render_page(
    report: Report, pictures: Mapping[Path, str], mistakes: Mistakes | None = None
) -> str:
    """Report and PNG files with their captions -> the HTML page."""
    controls, sets = report.sets("control"), report.sets("ood")
    parts = [
        _header(report),
        section("Remarks", bullets(report.remarks)) if report.remarks else "",
        section("AUROC at a glance", _overview(report, sets)) if sets else "",
        section("Every metric", f"<p>{_READING}</p>" + "".join(_detail(report, s) for s in sets))
        if sets
        else "",
        section("Controls", controls_table(report, controls)) if controls else "",
        section("Beside published numbers", published_table(report))
        if any(row.published for row in report.rows)
        else "",
        section("Calibration check", calibration_tables(report)) if report.calibration else "",
        section("Worst mistakes", mistakes_section(mistakes)) if mistakes else "",
        section("Pictures", "".join(picture(*item) for item in pictures.items())),
        section("Detectors", detectors_table(report)),
        section("Price", price_table(report)) if report.price else "",
        section("Provenance", provenance(report)),
    ]
    return page(report.title, "".join(parts))


def _header(report: Report) -> str:
    accuracy = (
        "no labels" if report.test_accuracy is None else f"{per_cent(report.test_accuracy)} %"
    )
    facts = {
        "Bundle": report.bundle,
        "Test accuracy": accuracy,
        "Default detector": report.primary or "none",
        "Seeds": ", ".join(map(str, report.seeds)),
    }
    return (
        f"<header><h1>{escape(report.title)}</h1>{labelled_list(facts)}"
        "<p>Higher score = more OOD. Metrics are in per cent.</p></header>"
    )


def _overview(report: Report, sets: Sequence[OodSet]) -> str:
    by_set = {
        s.name: {row.detector: row for row in report.rows if row.ood_set == s.name} for s in sets
    }
    names = [detector.name for detector in report.detectors]
    best = {s: best_of({d: row.metrics.auroc for d, row in by_set[s].items()}) for s in by_set}
    macros = {name: macro for name in names if (macro := report.macro_auroc(name)) is not None}
    best_macro = best_of(macros)
    body = [
        [
            Cell(detector_label(report, name), head=True),
            *(_auroc_cell(by_set[s].get(name), name in best[s]) for s in by_set),
            Cell(per_cent(macros[name]) if name in macros else "–", best=name in best_macro),
        ]
        for name in names
    ]
    note = (
        "<p>Best of each column in bold. It describes these test sets: choosing a detector by it"
        " would be tuning on them.</p>"
    )
    heads = ["Detector", *by_set, "Mean"]
    return note + table("AUROC (%) with its 95 % interval, for each OOD set", heads, body)


def _auroc_cell(row: Row | None, best: bool) -> Cell:
    if row is None:
        return Cell("–")
    low, high = row.auroc_interval
    small = f"{per_cent(low)}–{per_cent(high)}"
    if len(row.auroc_by_seed) > 1:
        small += f"; seeds {per_cent(min(row.auroc_by_seed))}–{per_cent(max(row.auroc_by_seed))}"
    return Cell(per_cent(row.metrics.auroc), small=small, best=best)


def _detail(report: Report, ood_set: OodSet) -> str:
    rows = [row for row in report.rows if row.ood_set == ood_set.name]
    if not rows:
        return ""
    best = {
        field: best_of({row.detector: metric_value(row.metrics, field) for row in rows}, more)
        for field, _, more in COLUMNS
        if more is not None
    }
    body = [
        [
            Cell(detector_label(report, row.detector), head=True),
            *(
                Cell(
                    per_cent(metric_value(row.metrics, field)),
                    best=row.detector in best.get(field, ()),
                )
                for field, _, _ in COLUMNS
            ),
        ]
        for row in rows
    ]
    counts = f"{rows[0].metrics.id_count:,} ID and {rows[0].metrics.ood_count:,} OOD inputs"
    caption = f"{ood_set.name}: {counts}. {ood_set.description}".rstrip()
    return table(caption, ["Detector", *(head for _, head, _ in COLUMNS)], body)
