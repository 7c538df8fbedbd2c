"""The report as one self-contained page: no script, no outside asset, light and dark."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from training.evaluation.markup import (
    STYLE,
    Cell,
    best_of,
    labelled_list,
    per_cent,
    section,
    signed_points,
    table,
)
from training.evaluation.metrics import OodMetrics
from training.evaluation.records import (
    CONTROL_TOLERANCE,
    PUBLISHED_TOLERANCE,
    OodSet,
    Report,
    Row,
)

# field of OodMetrics, heading, whether more is better (None: neither)
_COLUMNS: tuple[tuple[str, str, bool | None], ...] = (
    ("auroc", "AUROC", True),
    ("aupr_out", "AUPR-out", True),
    ("aupr_in", "AUPR-in", True),
    ("fpr95_id_side", "FPR95 ID side", False),
    ("fpr80_id_side", "FPR80 ID side", False),
    ("fpr95_ood_side", "FPR95 OOD side", False),
    ("detection_error", "Detection error", False),
    ("id_acceptance", "ID accepted at τ", None),
    ("ood_rejection", "OOD rejected at τ", True),
)

_READING = (
    "AUROC: chance is 50. AUPR: chance is the share of the positive side, so mind the counts"
    " (average precision; the trapezoid variants are in report.json). FPR95 ID side: OOD accepted"
    " while 95 % of ID is. FPR95 OOD side: ID rejected while 95 % of OOD is caught. Detection"
    " error: least mean error over all thresholds, chosen on the test labels. ID accepted and OOD"
    " rejected at τ are what a deployment sees. The 95 % interval is of this network on these"
    " test sets, not of another training run."
)


def render_page(report: Report, pictures: Mapping[Path, str]) -> str:
    """Report and PNG files with their captions -> the HTML page."""
    controls, sets = report.sets("control"), report.sets("ood")
    parts = [
        _header(report),
        section("Remarks", _bullets(report.remarks)) if report.remarks else "",
        section("AUROC at a glance", _overview(report, sets)) if sets else "",
        section("Every metric", f"<p>{_READING}</p>" + "".join(_detail(report, s) for s in sets))
        if sets
        else "",
        section("Controls", _controls(report, controls)) if controls else "",
        section("Beside published numbers", _published(report))
        if any(row.published for row in report.rows)
        else "",
        section("Calibration check", _calibration(report)) if report.calibration else "",
        section("Pictures", "".join(_picture(*item) for item in pictures.items())),
        section("Detectors", _detectors(report)),
        section("Price", _price(report)) if report.price else "",
        section("Provenance", _provenance(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{''.join(parts)}</main></body></html>\n"
    )


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
            Cell(_detector_label(report, name), head=True),
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
        field: best_of({row.detector: _value(row.metrics, field) for row in rows}, more)
        for field, _, more in _COLUMNS
        if more is not None
    }
    body = [
        [
            Cell(_detector_label(report, row.detector), head=True),
            *(
                Cell(
                    per_cent(_value(row.metrics, field)),
                    best=row.detector in best.get(field, ()),
                )
                for field, _, _ in _COLUMNS
            ),
        ]
        for row in rows
    ]
    counts = f"{rows[0].metrics.id_count:,} ID and {rows[0].metrics.ood_count:,} OOD inputs"
    caption = f"{ood_set.name}: {counts}. {ood_set.description}".rstrip()
    return table(caption, ["Detector", *(head for _, head, _ in _COLUMNS)], body)


def _controls(report: Report, controls: Sequence[OodSet]) -> str:
    flagged = report.flagged_controls()
    limit = 100 * CONTROL_TOLERANCE
    note = (
        "A control set is ID data encoded again: nothing about its content is out of distribution."
        f" An AUROC more than {limit:g} points from 50 says that the detector reads artefacts of"
        " the encoding, and that its numbers on differently encoded OOD sets are flattered."
    )
    body = [
        [
            Cell(row.ood_set, head=True),
            Cell(_detector_label(report, row.detector)),
            Cell(per_cent(row.metrics.auroc)),
            Cell("reads artefacts" if row in flagged else "clear", warn=row in flagged),
        ]
        for control in controls
        for row in report.rows
        if row.ood_set == control.name
    ]
    heads = ["Control set", "Detector", "AUROC", "Verdict"]
    return f"<p>{note}</p>" + table("Control sets (%)", heads, body)


def _published(report: Report) -> str:
    limit = 100 * PUBLISHED_TOLERANCE
    body = [
        [
            Cell(row.ood_set, head=True),
            Cell(_detector_label(report, row.detector)),
            Cell(_heading(published.metric)),
            Cell(per_cent(_value(row.metrics, published.metric))),
            Cell(per_cent(published.value), small=published.source),
            Cell(signed_points(row.difference(published))),
            Cell(
                published.explanation
                or ("not explained" if row.needs_explanation(published) else ""),
                warn=row.needs_explanation(published),
                text=True,
            ),
        ]
        for row in report.rows
        for published in row.published
    ]
    heads = ["OOD set", "Detector", "Metric", "Here", "Published", "Difference", "Why"]
    return table(f"Differences above {limit:g} points need a reason (%)", heads, body)


def _calibration(report: Report) -> str:
    body = [
        [
            Cell(_detector_label(report, record.detector), head=True),
            Cell(f"{100 * row.nominal:g}"),
            Cell(f"{row.threshold:.6g}"),
            Cell(per_cent(row.realised)),
            Cell(f"{per_cent(row.low)}–{per_cent(row.high)}"),
            Cell("inside" if row.inside else _outside(row.tied), warn=not row.inside),
        ]
        for record in report.calibration
        for row in record.rows
    ]
    heads = ["Detector", "Nominal", "Threshold", "Realised", "Chance allows (99 %)", "Verdict"]
    spread = [
        [
            Cell(_detector_label(report, record.detector), head=True),
            Cell(f"{record.p_values.statistic:.4f}"),
            Cell(f"{record.p_values.critical:.4f}"),
            Cell(
                "uniform" if record.p_values.uniform else "not uniform",
                warn=not record.p_values.uniform,
            ),
        ]
        for record in report.calibration
    ]
    return table("Acceptance of test-ID (%)", heads, body) + table(
        "Are the p-values of test-ID uniform?  Kolmogorov-Smirnov, both sample sizes counted",
        ["Detector", "Distance", "Critical", "Verdict"],
        spread,
    )


def _outside(tied: int) -> str:
    return f"outside ({tied} scores tie with the threshold)" if tied else "outside"


def _detectors(report: Report) -> str:
    body = [
        [
            Cell(_detector_label(report, record.name), head=True),
            Cell(record.description, small=record.reference, text=True),
            Cell(record.cost),
            Cell(f"{record.threshold:.6g}", small=f"for {100 * record.id_acceptance:g} %"),
            Cell(
                "–".join(per_cent(end) for end in record.acceptance_interval),
                small=f"from {record.calibration_size:,} scores",
            ),
        ]
        for record in report.detectors
    ]
    heads = ["Detector", "What it measures", "Cost", "Threshold τ", "True acceptance (90 %)"]
    return table("The detectors of this bundle", heads, body)


def _price(report: Report) -> str:
    body = [
        [
            Cell(_detector_label(report, price.detector), head=True),
            Cell(str(price.batch_size)),
            Cell(f"{price.milliseconds_per_input:.4g}"),
            Cell("–" if price.ratio_to_classifier is None else f"{price.ratio_to_classifier:.3f}"),
        ]
        for price in report.price
    ]
    heads = ["Detector", "Batch", "ms an input", "Times the classifier"]
    return table("What a detector costs", heads, body)


def _provenance(report: Report) -> str:
    counts = {name: f"{count:,}" for name, count in report.counts.items()}
    config = escape(json.dumps(report.config, indent=1, ensure_ascii=False))
    return (
        f"<h3>Counts</h3>{labelled_list(counts)}<h3>Machine</h3>{labelled_list(report.machine)}"
        f"<h3>Libraries</h3>{labelled_list(report.libraries)}"
        f"<details><summary>Configuration</summary><pre>{config}</pre></details>"
    )


def _picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _bullets(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _detector_label(report: Report, name: str) -> str:
    return f"{name} (default)" if name == report.primary else name


def _heading(field: str) -> str:
    return next((head for name, head, _ in _COLUMNS if name == field), field)


def _value(metrics: OodMetrics, field: str) -> float:
    return float(getattr(metrics, field))
