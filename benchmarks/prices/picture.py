"""The price list as a picture."""

from pathlib import Path

from matplotlib.lines import Line2D

from benchmarks.prices.goals import GOALS, NETWORK
from benchmarks.prices.records import PriceList
from benchmarks.prices.report import SECTIONS, of_kinds, title
from training.evaluation.canvas import (
    GREY,
    ID_COLOUR,
    OOD_COLOURS,
    legend_below,
    panel_grid,
    save_png,
)

_COLOURS = (ID_COLOUR, OOD_COLOURS[0], OOD_COLOURS[1])
_TICKS = (1, 1.2, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)


def draw(listed: PriceList, path: Path) -> None:
    """A row a graph, a mark a batch size, on a logarithmic axis; goals as short lines."""
    prices = [price for _, kinds in SECTIONS for price in of_kinds(listed, kinds)]
    figure, (ax,) = panel_grid(
        1,
        f"Price relative to the plain classifier ({listed.config}, {listed.backbone})",
        columns=1,
        panel=(8.0, 0.19 * len(prices) + 0.6),
    )
    height = 0.8 / len(listed.batches)
    for position, price in enumerate(prices):
        for i, batch in enumerate(listed.batches):
            measured = price.batches[batch]
            y = position + (i - (len(listed.batches) - 1) / 2) * height
            ax.barh(y, measured.ratio - 1, height, left=1, color=_COLOURS[i % 3], linewidth=0)
            ax.plot([measured.low, measured.high], [y, y], color=GREY, linewidth=0.8)
            for goal in GOALS if listed.backbone == NETWORK else ():
                if goal.graph == price.name and goal.batch == batch:
                    ends = [y - height / 2, y + height / 2]
                    ax.plot([goal.limit] * 2, ends, color="black", linewidth=1.6)
    ax.set_xscale("log")
    dearest = max(p.batches[b].high for p in prices for b in listed.batches)
    ticks = [t for t in _TICKS if t <= dearest * 1.2]
    ax.set_xlim(0.98, dearest * 1.1)
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    ax.set_yticks(range(len(prices)), [title(price) for price in prices])
    ax.set_ylim(len(prices) - 0.4, -0.6)
    ax.set_xlabel("times the plain classifier (1 = free); grey: 95 % interval", fontsize=8)
    handles = [
        Line2D([], [], color=_COLOURS[i % 3], linewidth=5, label=f"batch {batch}")
        for i, batch in enumerate(listed.batches)
    ]
    if listed.backbone == NETWORK:
        handles.append(Line2D([], [], color="black", linewidth=1.6, label="goal"))
    legend_below(figure, handles)
    save_png(figure, path)
