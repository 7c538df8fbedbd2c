"""Figures without global state: a grid of panels, one palette, small PNG files."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe & Ito's colour-blind-safe palette, black and yellow left out
ID_COLOUR = "#0072B2"
OOD_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#5E3C99", "#8C510A", "#56B4E9")
LINES = ("-", "--", "-.", ":")
GREY = "#6B7280"
DOTS_PER_INCH = 110


def ood_style(position: int) -> tuple[str, str]:
    """The colour and line style of the i-th OOD set (or detector): 28 different ones."""
    colours = len(OOD_COLOURS)
    return OOD_COLOURS[position % colours], LINES[(position // colours) % len(LINES)]


def panel_grid(
    count: int, title: str, *, columns: int = 4, panel: tuple[float, float] = (3.0, 2.2)
) -> tuple[Figure, list[Axes]]:
    """`count` panels of (width, height) inches under one title, left to right, row by row."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = max(panel[0] * columns, 6.0)
    figure = Figure(figsize=(width, panel[1] * rows + 0.9), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", fontweight="bold")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(True, color="#E5E7EB", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int = 5) -> None:
    """One legend for all panels; the handles carry their labels."""
    labels = [str(handle.get_label()) for handle in handles]
    columns = min(columns, max(1, int(figure.get_size_inches()[0] // 1.7)))
    figure.legend(
        list(handles), labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )


def label_edges(axes: Sequence[Axes], columns: int, x: str, y: str) -> None:
    """Axis labels where they are read: y on the first column, x on the lowest panel of each."""
    for i, ax in enumerate(axes):
        if i % columns == 0:
            ax.set_ylabel(y, fontsize=8)
        if i + columns >= len(axes):
            ax.set_xlabel(x, fontsize=8)


def save_png(figure: Figure, path: Path) -> None:
    """Write with a palette of 128 colours: a third of the bytes, no difference to the eye."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    with Image.open(buffer) as image:
        palette = image.convert("RGB").quantize(128, method=Image.Quantize.FASTOCTREE)
    palette.save(path, optimize=True)
