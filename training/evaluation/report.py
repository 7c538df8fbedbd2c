"""Write one evaluation for people and for programs: report.json, report.html, plots/*.png."""

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from training.evaluation.canvas import save_png
from training.evaluation.html import render_page
from training.evaluation.latent_plot import latent_picture
from training.evaluation.mistakes import Mistakes, mistake_lines
from training.evaluation.mistakes_page import contact_sheet
from training.evaluation.plots import (
    calibration_plot,
    p_value_histograms,
    roc_curves,
    score_histograms,
)
from training.evaluation.records import Report
from training.evaluation.tables import Latents, Scores

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
PLOTS = "plots"
MISTAKES = "mistakes.jsonl"

# file stem -> what the picture shows, for people who do not see it
CAPTIONS = {
    "scores": "Histograms of the scores on calibration-ID, test-ID and each OOD set, one panel a"
    " detector; the dashed line is the threshold: left of it accepted, right of it flagged. The"
    " axis counts robust standard deviations (1.4826 MAD) from the calibration median, asinh"
    " scale; the outermost bins hold everything beyond.",
    "roc": "Share of OOD caught against share of ID falsely rejected (log scale), one panel an"
    " OOD set. Higher and further left is better; dotted is chance.",
    "calibration": "Realised acceptance of test-ID at each nominal acceptance. Inside the band:"
    " as promised, up to chance (99 %). Crosses lie outside.",
    "p_values": "Histograms of conformal p-values. Test-ID should stay within the band around 1;"
    " OOD should pile up near 0.",
    "latent": "Penultimate features on the first two principal components of train-ID: the"
    " classes, then each OOD set laid over them. Most dimensions are not shown.",
    "mistakes": "What the default detector gets most wrong at its threshold: ID inputs it rejects,"
    " those with the highest scores first; of each OOD set inputs it accepts, those with the lowest"
    " scores first. Below each: its label, where it is known, what the classifier says, and the"
    " p-value.",
}


def write_report(
    folder: Path,
    report: Report,
    scores: Scores,
    latents: Latents | None = None,
    mistakes: Mistakes | None = None,
) -> list[Path]:
    """Write into `folder` (made if missing); the files written, report.json first.

    The page holds its pictures inside, so report.html can be sent alone.  `mistakes` show inputs
    themselves, and are listed in mistakes.jsonl.  Raises ValueError when the report holds NaN or
    infinity, before anything is written.
    """
    text = report_json(report)
    plots = folder / PLOTS
    plots.mkdir(parents=True, exist_ok=True)
    figures = {"scores": score_histograms(scores)}
    if scores.ood:
        figures["roc"] = roc_curves(scores, report.primary)
    if report.calibration:
        figures["calibration"] = calibration_plot(report.calibration)
    figures["p_values"] = p_value_histograms(scores)
    if latents is not None:
        figures["latent"] = latent_picture(latents)
    pictures = {name: plots / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        save_png(figure, pictures[name])
    (folder / REPORT_JSON).write_text(text, encoding="utf-8")
    written = [folder / REPORT_JSON, folder / REPORT_HTML, *pictures.values()]
    if mistakes is not None:
        if any(row.pixels is not None for row in mistakes.rows):
            pictures["mistakes"] = plots / "mistakes.png"
            # not through the palette of save_png: these are pictures of pictures
            contact_sheet(mistakes).savefig(pictures["mistakes"], facecolor="white")
            written.append(pictures["mistakes"])
        (folder / MISTAKES).write_text(mistake_lines(mistakes), encoding="utf-8")
        written.append(folder / MISTAKES)
    captions = {path: CAPTIONS[name] for name, path in pictures.items()}
    (folder / REPORT_HTML).write_text(render_page(report, captions, mistakes), encoding="utf-8")
    return written


def report_json(report: Report) -> str:
    """Indented JSON, keys in the order of the records.  Raises ValueError on NaN or infinity."""
    try:
        return json.dumps(asdict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError as exc:
        raise ValueError(f"report {report.title!r} holds NaN or infinity: {exc}") from exc


def read_report(path: Path) -> Report:
    """report.json -> Report.  Raises pydantic.ValidationError when it is something else."""
    return TypeAdapter(Report).validate_json(path.read_bytes())
