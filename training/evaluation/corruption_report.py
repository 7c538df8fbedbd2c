"""Write a corruption report for people and for programs: report.json, report.html, plots/*.png."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from training.evaluation.canvas import save_png
from training.evaluation.corruption import ACCURACY, CorruptionReport
from training.evaluation.corruption_plots import contact_sheet, severity_curves
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
from training.evaluation.report import PLOTS, REPORT_HTML, REPORT_JSON

_READING = (
    "Clean test-ID images against the same images corrupted; AUROC 50 means that a detector does"
    " not tell them apart. That is no fault in itself: where the classifier still answers"
    " correctly, a corrupted image is hardly OOD. Read a detector's rise beside the fall of the"
    " accuracy. Deviation: standard deviation over the kinds. The severities of"
    " elastic_transform and glass_blur are not ordered by strength."
)
_CAPTIONS = {
    "severity": "Accuracy on corrupted images, and AUROC of clean against corrupted for every"
    " detector, against the severity. Line: mean over the kinds; dark band: one standard"
    " deviation each way; light band: from the lowest to the highest kind.",
    "sheet": "One test-ID image, clean and at every severity of every kind.",
}


def write_corruption_report(
    folder: Path, report: CorruptionReport, image: NDArray[np.uint8]
) -> list[Path]:
    """Write into `folder` (made if missing); `image` (H, W, C) fills the contact sheet.

    Raises ValueError on NaN or infinity, before anything is written.
    """
    text = json.dumps(asdict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    plots = folder / PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    curves, sheet = plots / "severity.png", plots / "sheet.png"
    save_png(severity_curves(report), curves)
    # not through the palette of save_png: few colours would look like one more corruption
    contact_sheet(image, report.seed).savefig(sheet, facecolor="white")
    pictures = {curves: _CAPTIONS["severity"], sheet: _CAPTIONS["sheet"]}
    (folder / REPORT_JSON).write_text(text, encoding="utf-8")
    (folder / REPORT_HTML).write_text(_page(report, pictures), encoding="utf-8")
    return [folder / REPORT_JSON, folder / REPORT_HTML, curves, sheet]


def overview_table(report: CorruptionReport) -> Table:
    """For the terminal: a row for each detector, a column for each severity, per cent."""
    grid = Table(
        title=f"{report.bundle}: AUROC (%), clean against corrupted test-ID",
        caption=f"mean ± standard deviation over {len(report.kinds)} kinds, lowest–highest kind; "
        f"{report.counts[ACCURACY]} images, clean accuracy {per_cent(report.clean_accuracy)} %",
    )
    grid.add_column("", no_wrap=True)
    for severity in report.severities:
        grid.add_column(f"severity {severity}", justify="right")
    for name, spreads in report.spreads.items():
        shown = [
            f"{100 * at.mean:.1f} ± {100 * at.deviation:.1f}\n"
            f"{100 * at.lowest:.0f}–{100 * at.highest:.0f}"
            for at in spreads
        ]
        grid.add_row(name, *shown, end_section=name == ACCURACY)
    return grid


def _page(report: CorruptionReport, pictures: Mapping[Path, str]) -> str:
    facts = {
        "Bundle": report.bundle,
        "Default detector": report.primary,
        "Accuracy on clean images": f"{per_cent(report.clean_accuracy)} %",
        "Images in each cell": f"{report.counts[ACCURACY]:,}",
        "Seed of the corruptions": str(report.seed),
        "Test-ID": report.data,
    }
    shown = [picture(*item) for item in pictures.items()]
    kinds = "".join(_by_kind(report, name) for name in (ACCURACY, *report.detectors))
    parts = [
        f"<header><h1>{escape(report.title)}</h1>{labelled_list(facts)}"
        "<p>Higher score = more OOD. All figures are in per cent.</p></header>",
        section("Remarks", bullets(report.remarks)) if report.remarks else "",
        section("At a glance", f"<p>{_READING}</p>" + _overview(report)),
        section("Against severity", shown[0]),
        section("Every severity", "".join(_at_severity(report, s) for s in report.severities)),
        section("Every kind", kinds),
        section("The corruptions", shown[1]),
        section(
            "Provenance",
            f"<h3>Machine</h3>{labelled_list(report.machine)}"
            f"<h3>Libraries</h3>{labelled_list(report.libraries)}",
        ),
    ]
    return page(report.title, "".join(parts))


def _overview(report: CorruptionReport) -> str:
    body = [
        [
            _head(report, name),
            *(
                Cell(per_cent(spread.mean), small=f"± {per_cent(spread.deviation)}")
                for spread in report.spreads[name]
            ),
        ]
        for name in (ACCURACY, *report.detectors)
    ]
    heads = ["", *(f"Severity {severity}" for severity in report.severities)]
    return table("Mean and standard deviation over the kinds (%)", heads, body)


def _at_severity(report: CorruptionReport, severity: int) -> str:
    at = report.severities.index(severity)
    spreads = {name: report.spreads[name][at] for name in (ACCURACY, *report.detectors)}
    best = best_of({name: spreads[name].mean for name in report.detectors})
    body = [
        [
            _head(report, name),
            Cell(per_cent(spread.mean), best=name in best),
            Cell(per_cent(spread.deviation)),
            Cell(per_cent(spread.lowest), small=spread.lowest_kind),
            Cell(per_cent(spread.highest), small=spread.highest_kind),
        ]
        for name, spread in spreads.items()
    ]
    heads = ["", "Mean", "Deviation", "Lowest kind", "Highest kind"]
    return table(f"Severity {severity}: over {len(report.kinds)} kinds (%)", heads, body)


def _by_kind(report: CorruptionReport, name: str) -> str:
    body: Sequence[Sequence[Cell]] = [
        [
            Cell(kind, head=True),
            *(Cell(per_cent(report.at(kind, s).value(name))) for s in report.severities),
        ]
        for kind in report.kinds
    ]
    heads = ["Kind", *(f"Severity {severity}" for severity in report.severities)]
    caption = f"{_label(report, name)}, {report.counts[name]:,} images in each cell (%)"
    opened = " open" if name in (ACCURACY, report.primary) else ""
    return (
        f"<details{opened}><summary>{escape(_label(report, name))}</summary>"
        f"{table(caption, heads, body)}</details>"
    )


def _head(report: CorruptionReport, name: str) -> Cell:
    return Cell(_label(report, name), head=True)


def _label(report: CorruptionReport, name: str) -> str:
    if name == ACCURACY:
        return "Accuracy of the classifier"
    return f"AUROC, {name}" + (" (default)" if name == report.primary else "")
