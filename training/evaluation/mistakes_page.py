"""The worst mistakes for people: a contact sheet of images, tables of texts."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.evaluation.canvas import DOTS_PER_INCH, ID_COLOUR, OOD_COLOURS
from training.evaluation.markup import Cell, per_cent, table
from training.evaluation.mistakes import SHOWN, Mistake, MistakeRow, Mistakes

# inches: of one picture, beside it, around all, above and below a row
_INCH, _GAP, _MARGIN, _HEAD, _FOOT = 1.15, 0.12, 0.15, 0.4, 0.6
_ROW = _HEAD + _INCH + _FOOT
_LONGEST_NAME, _LONGEST_TEXT = 16, 300


def contact_sheet(mistakes: Mistakes) -> Figure:
    """A row of pictures for each set that has mistakes, the worst one first; only for images."""
    rows = [row for row in mistakes.rows if row.pixels is not None]
    wide = 2 * _MARGIN + SHOWN * (_INCH + _GAP)
    high = _MARGIN + len(rows) * _ROW
    figure = Figure(figsize=(wide, high), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    for i, row in enumerate(rows):
        top = high - i * _ROW - _HEAD
        colour = ID_COLOUR if row.kind == "false_alarm" else OOD_COLOURS[0]
        at = (_MARGIN / wide, (top + 0.08) / high)
        figure.text(*at, heading(row), fontsize=10, color=colour, fontweight="bold")
        assert row.pixels is not None  # noqa: S101
        for column, (pixels, one) in enumerate(zip(row.pixels, row.worst, strict=False)):
            left = _MARGIN + column * (_INCH + _GAP)
            ax = figure.add_axes((left / wide, (top - _INCH) / high, _INCH / wide, _INCH / high))
            ax.set_axis_off()
            ax.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            below = (left + _INCH / 2) / wide, (top - _INCH - 0.05) / high
            figure.text(*below, _caption(one), fontsize=7, ha="center", va="top")
    return figure


def mistakes_section(mistakes: Mistakes) -> str:
    """Counts of every set; of texts the worst ones, too."""
    body = [
        [
            Cell(row.set, head=True),
            Cell("ID rejected" if row.kind == "false_alarm" else "OOD accepted", text=True),
            Cell(f"{row.count:,} of {row.total:,}"),
            Cell(f"{per_cent(row.count / row.total)} %"),
        ]
        for row in mistakes.rows
    ]
    threshold = f"{mistakes.detector} at its threshold {mistakes.threshold:.6g}"
    counts = table(f"Mistakes of {threshold}", ["Set", "Mistake", "Inputs", "Share"], body)
    listed = "".join(_texts(row) for row in mistakes.rows if row.pixels is None and row.worst)
    return counts + listed


def heading(row: MistakeRow) -> str:
    """What a row shows, in one line."""
    what = "ID rejected" if row.kind == "false_alarm" else "OOD accepted"
    return (
        f"{row.set}: {what}, {row.count:,} of {row.total:,} ({per_cent(row.count / row.total)} %)"
    )


def _texts(row: MistakeRow) -> str:
    body = [
        [
            Cell(_shortened(one.text or "", _LONGEST_TEXT), prose=True),
            Cell(one.predicted, small=f"is {one.label}" if one.label else "", text=True),
            Cell(f"{one.score:.4g}"),
            Cell(f"{one.p_value:.4f}"),
        ]
        for one in row.worst[:SHOWN]
    ]
    return table(heading(row), ["Text", "Predicted", "Score", "p-value"], body)


def _caption(one: Mistake) -> str:
    label = "" if one.label is None else f"is {_shortened(one.label, _LONGEST_NAME)}\n"
    return f"{label}said {_shortened(one.predicted, _LONGEST_NAME)}\np {one.p_value:.3g}"


def _shortened(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
