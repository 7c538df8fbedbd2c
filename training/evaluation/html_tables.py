"""The report's tables beside the metrics: controls, published numbers, calibration, price."""

import json
from collections.abc import Sequence
from html import escape

from training.evaluation.markup import Cell, labelled_list, per_cent, signed_points, table
from training.evaluation.metrics import OodMetrics
from training.evaluation.records import CONTROL_TOLERANCE, PUBLISHED_TOLERANCE, OodSet, Report

# field of OodMetrics, heading, whether more is better (None: neither)
COLUMNS: tuple[tuple[str, str, bool | None], ...] = (
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


def controls_table(report: Report, controls: Sequence[OodSet]) -> str:
    """Control sets with a verdict for each detector."""
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
            Cell(detector_label(report, row.detector), text=True),
            Cell(per_cent(row.metrics.auroc)),
            Cell("reads artefacts" if row in flagged else "clear", warn=row in flagged),
        ]
        for control in controls
        for row in report.rows
        if row.ood_set == control.name
    ]
    heads = ["Control set", "Detector", "AUROC", "Verdict"]
    return f"<p>{note}</p>" + table("Control sets (%)", heads, body)


def published_table(report: Report) -> str:
    """Our numbers beside those of the literature, large differences explained."""
    limit = 100 * PUBLISHED_TOLERANCE
    body = [
        [
            Cell(row.ood_set, head=True),
            Cell(detector_label(report, row.detector), text=True),
            Cell(_heading(published.metric), text=True),
            Cell(per_cent(metric_value(row.metrics, published.metric))),
            Cell(per_cent(published.value), small=published.source),
            Cell(signed_points(row.difference(published))),
            Cell(
                published.explanation
                or ("not explained" if row.needs_explanation(published) else ""),
                warn=row.needs_explanation(published),
                prose=True,
            ),
        ]
        for row in report.rows
        for published in row.published
    ]
    heads = ["OOD set", "Detector", "Metric", "Here", "Published", "Difference", "Why"]
    return table(f"Differences above {limit:g} points need a reason (%)", heads, body)


def calibration_tables(report: Report) -> str:
    """Realised acceptance at each level, then the uniformity of the p-values."""
    body = [
        [
            Cell(detector_label(report, record.detector), head=True),
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
            Cell(detector_label(report, record.detector), head=True),
            Cell(f"{record.p_values.statistic:.4f}"),
            Cell(f"{record.p_values.critical:.4f}"),
            Cell(
                "uniform" if record.p_values.uniform else "not uniform",
                warn=not record.p_values.uniform,
            ),
        ]
        for record in report.calibration
    ]
    note = (
        f"<p>One check in a hundred falls outside by chance alone; these are {len(body)}, and"
        " detectors that rank inputs alike fail together.</p>"
    )
    return (
        note
        + table("Acceptance of test-ID (%)", heads, body)
        + table(
            "Are the p-values of test-ID uniform?  Kolmogorov-Smirnov, both sample sizes counted",
            ["Detector", "Distance", "Critical", "Verdict"],
            spread,
        )
    )


def _outside(tied: int) -> str:
    return f"outside ({tied} scores tie with the threshold)" if tied else "outside"


def detectors_table(report: Report) -> str:
    """What each detector measures, with its threshold and what that can promise."""
    body = [
        [
            Cell(detector_label(report, record.name), head=True),
            Cell(record.description, small=record.reference, prose=True),
            Cell(record.cost, text=True),
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


def price_table(report: Report) -> str:
    """Milliseconds each detector adds."""
    body = [
        [
            Cell(detector_label(report, price.detector), head=True),
            Cell(str(price.batch_size)),
            Cell(f"{price.milliseconds_per_input:.4g}"),
            Cell("–" if price.ratio_to_classifier is None else f"{price.ratio_to_classifier:.3f}"),
        ]
        for price in report.price
    ]
    heads = ["Detector", "Batch", "ms an input", "Times the classifier"]
    return table("What a detector costs", heads, body)


def provenance(report: Report) -> str:
    """Counts, machine, libraries, configuration."""
    counts = {name: f"{count:,}" for name, count in report.counts.items()}
    config = escape(json.dumps(report.config, indent=1, ensure_ascii=False))
    return (
        f"<h3>Counts</h3>{labelled_list(counts)}<h3>Machine</h3>{labelled_list(report.machine)}"
        f"<h3>Libraries</h3>{labelled_list(report.libraries)}"
        f"<details><summary>Configuration</summary><pre>{config}</pre></details>"
    )


def detector_label(report: Report, name: str) -> str:
    """The name, marked where it decides by default."""
    return f"{name} (default)" if name == report.primary else name


def _heading(field: str) -> str:
    return next((head for name, head, _ in COLUMNS if name == field), field)


def metric_value(metrics: OodMetrics, field: str) -> float:
    """A field of OodMetrics by name."""
    return float(getattr(metrics, field))
