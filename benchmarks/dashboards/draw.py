"""Panels of one dashboard as one picture: what Prometheus answered, where Grafana would show it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

_COLUMNS = 24  # of Grafana's grid
_INCHES_A_COLUMN, _INCHES_A_ROW = 0.5, 0.34
_MOST_IN_LEGEND = 12
_PER_CENT = "percentunit"


@dataclass(frozen=True)
class Reply:
    """`series` as the HTTP API of Prometheus gives a matrix."""

    legend: str
    series: list[dict[str, Any]]


@dataclass(frozen=True)
class Panel:
    """`place`: x, y, w, h on Grafana's grid."""

    title: str
    kind: str
    unit: str
    place: dict[str, int]
    replies: list[Reply]


def draw(title: str, panels: list[Panel], times: tuple[float, float], path: Path) -> None:
    """`times`: Unix seconds of the left and the right edge."""
    begin, end = times
    mpl.use("Agg")
    rows = max(panel.place["y"] + panel.place["h"] for panel in panels)
    figure = plt.figure(figsize=(_COLUMNS * _INCHES_A_COLUMN, rows * _INCHES_A_ROW + 0.5))
    figure.suptitle(f"{title}: Prometheus' answers to its panels", fontsize="medium")
    for panel in panels:
        place = panel.place
        axes = figure.add_axes(
            (
                (place["x"] + 0.9) / _COLUMNS,
                1 - (place["y"] + place["h"] - 0.8 + 1.2) / (rows + 2),
                (place["w"] - 1.4) / _COLUMNS,
                (place["h"] - 2.4) / (rows + 2),
            )
        )
        axes.set_title(panel.title, fontsize="small", loc="left")
        axes.tick_params(labelsize="x-small")
        if any(reply.series for reply in panel.replies):
            _DRAWN[panel.kind](axes, panel, begin)
        else:
            axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
        if panel.kind in ("timeseries", "heatmap"):
            axes.set_xlim(0, (end - begin) / 60)
            axes.set_xlabel("minutes", fontsize="x-small")
    figure.savefig(path, dpi=80, metadata={"Software": None})
    plt.close(figure)


def name_of(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), legend)


def _points(
    series: dict[str, Any], begin: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minutes and values."""
    pairs = np.array([(float(at), float(value)) for at, value in series["values"]])
    return (pairs[:, 0] - begin) / 60, pairs[:, 1]


def _lines(axes: Axes, panel: Panel, begin: float) -> None:
    count = 0
    for style, reply in zip(("-", "--", ":"), panel.replies, strict=False):
        for series in reply.series:
            minutes, values = _points(series, begin)
            name = name_of(reply.legend, series["metric"])
            shown = name if count < _MOST_IN_LEGEND else None
            axes.plot(minutes, values, style, linewidth=1, label=shown)
            count += 1
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    if panel.unit == _PER_CENT:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if count:
        axes.legend(fontsize=5, loc="upper left", ncols=2, framealpha=0.6)


def _number(axes: Axes, panel: Panel, begin: float) -> None:
    axes.axis("off")
    texts = [
        f"{value:.1%}" if panel.unit == _PER_CENT else f"{value:.3g}"
        for reply in panel.replies
        for series in reply.series
        for value in [_points(series, begin)[1][-1]]
    ]
    axes.text(0.5, 0.4, ", ".join(texts), ha="center", va="center", fontsize=18)


def _heat(axes: Axes, panel: Panel, begin: float) -> None:
    """Cumulative buckets -> what fell into each."""
    by_bound = {
        float(series["metric"]["le"]): dict(
            zip(*(column.tolist() for column in _points(series, begin)), strict=True)
        )
        for reply in panel.replies
        for series in reply.series
    }
    bounds = sorted(by_bound)
    minutes = sorted({minute for values in by_bound.values() for minute in values})
    upto = np.array([[by_bound[bound].get(m, np.nan) for m in minutes] for bound in bounds])
    inside = np.diff(upto, axis=0, prepend=0)
    axes.pcolormesh(minutes, np.arange(len(bounds)), np.clip(inside, 0, None), cmap="magma_r")
    axes.set_ylabel("up to", fontsize="x-small")
    axes.set_yticks(np.arange(len(bounds)), [f"{bound:g}" for bound in bounds], fontsize=5)


def _table(axes: Axes, panel: Panel, _: float) -> None:
    axes.axis("off")
    rows = [
        {**{k: v[:18] for k, v in series["metric"].items()}, "value": series["values"][-1][1][:9]}
        for reply in panel.replies
        for series in reply.series
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(column, "") for column in columns] for row in rows]
    if cells:
        table = axes.table(cells, colLabels=columns, loc="center")
        table.auto_set_font_size(False)
        table.set_fontsize(6)


_DRAWN = {"timeseries": _lines, "stat": _number, "heatmap": _heat, "table": _table}
