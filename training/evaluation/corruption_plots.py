"""The pictures of a corruption report: AUROC against severity, and what the corruptions do."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from training.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from training.evaluation.canvas import (
    GREY,
    ID_COLOUR,
    OOD_COLOURS,
    label_edges,
    legend_below,
    panel_grid,
)
from training.evaluation.corruption import ACCURACY, CorruptionReport, Spread

_COLUMNS = 4
_SHEET_COLUMNS = 2
_GAP = 2  # white pixels between the pictures of the sheet


def severity_curves(report: CorruptionReport) -> Figure:
    """A panel for the accuracy and one for each detector: the mean over the kinds, a band one
    standard deviation wide each way, a lighter one from the lowest to the highest kind."""
    names = (ACCURACY, *report.detectors)
    figure, axes = panel_grid(len(names), "Clean against corrupted test-ID, over all kinds")
    for ax, name in zip(axes, names, strict=True):
        _draw_curve(ax, report.spreads[name], ID_COLOUR if name == ACCURACY else OOD_COLOURS[0])
        at = report.clean_accuracy if name == ACCURACY else 0.5
        ax.axhline(100 * at, color=GREY, linewidth=0.8, linestyle=":")
        label = name if name == ACCURACY else f"AUROC, {name}"
        ax.set_title(label, fontsize=9, fontweight="bold" if name == report.primary else None)
        ax.set_xticks(report.severities)
        ax.set_ylim(0, 101)
    label_edges(axes, _COLUMNS, "severity", "%")
    legend_below(
        figure,
        [
            Line2D([], [], color="black", marker="o", markersize=3, label="mean over the kinds"),
            Patch(color="black", alpha=0.35, label="± 1 standard deviation"),
            Patch(color="black", alpha=0.12, label="lowest to highest kind"),
            Line2D([], [], color=GREY, linestyle=":", label="clean accuracy; chance"),
        ],
        columns=4,
    )
    return figure


def contact_sheet(image: NDArray[np.uint8], seed: int) -> Figure:
    """One image (H, W, C): clean and at every severity of every kind of the suite."""
    kinds = list(CORRUPTIONS)
    rows = -(-len(kinds) // _SHEET_COLUMNS)
    height, width = image.shape[0] + _GAP, image.shape[1] + _GAP
    inches = 4.5 / (1 + len(SEVERITIES))  # of one picture's width; the rest are names
    panel = (5.6, inches * rows * height / width)
    figure, axes = panel_grid(
        _SHEET_COLUMNS, "The sixteen corruptions", columns=_SHEET_COLUMNS, panel=panel
    )
    for column, ax in enumerate(axes):
        own = kinds[column * rows : (column + 1) * rows]
        strips = [_strip(image, kind, seed) for kind in own]
        sheet = np.concatenate(strips, axis=0)
        ax.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set_yticks([(i + 0.5) * height for i in range(len(own))], own)
        heads = ["clean", *map(str, SEVERITIES)]
        ax.set_xticks([(i + 0.5) * width for i in range(len(heads))], heads)
        ax.xaxis.tick_top()
        ax.grid(False)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return figure


def _strip(image: NDArray[np.uint8], kind: str, seed: int) -> NDArray[np.uint8]:
    """The clean image and its corrupted versions, side by side."""
    versions = [image, *(corrupt(image[None], kind, s, seed)[0] for s in SEVERITIES)]
    frame = np.array([(_GAP // 2, _GAP // 2), (_GAP // 2, _GAP // 2), (0, 0)])
    return np.concatenate([np.pad(v, frame, constant_values=255) for v in versions], axis=1)


def _draw_curve(ax: Axes, spreads: tuple[Spread, ...], colour: str) -> None:
    x = [spread.severity for spread in spreads]
    mean, deviation, lowest, highest = (
        100 * np.array([getattr(spread, field) for spread in spreads])
        for field in ("mean", "deviation", "lowest", "highest")
    )
    ax.fill_between(x, lowest, highest, color=colour, alpha=0.12, linewidth=0)
    above, below = np.minimum(mean + deviation, 100), np.maximum(mean - deviation, 0)
    ax.fill_between(x, below, above, color=colour, alpha=0.35, linewidth=0)
    ax.plot(x, mean, color=colour, marker="o", markersize=3)
