"""An advice in one picture: detection and price, acceptance, agreement, production."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.advise.records import WORTH, Advice, Opinion, Share
from training.evaluation.canvas import DOTS_PER_INCH, GREY, ID_COLOUR, OOD_COLOURS

_MOST = 14  # detectors; those worth their price, then those that catch most
_BAND = "#CFE3F1"
_DECIDES = OOD_COLOURS[0]
_SMALL = 8


def advice_picture(advice: Advice) -> Figure:
    """Four panels; the detector that should decide in orange, what is worth its price in blue."""
    shown = shown_opinions(advice)
    rows = 2.2 + 0.24 * len(shown)
    figure = Figure(figsize=(12.0, 2 * rows), dpi=DOTS_PER_INCH)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{advice.bundle}: {advice.title.partition(': ')[2]}", fontsize=12)
    panels = [figure.add_subplot(2, 2, i + 1) for i in range(4)]
    _detection(panels[0], advice, shown)
    _acceptance(panels[1], advice)
    _agreement(panels[2], advice, shown)
    if advice.production is None:
        _levels(panels[3], advice)
    else:
        _production(panels[3], advice, shown)
    for ax in panels:
        ax.tick_params(labelsize=_SMALL)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def shown_opinions(advice: Advice) -> list[Opinion]:
    """As many as a picture holds, the one that decides first."""
    worth = [one for one in advice.opinions if one.verdict in WORTH]
    rest = [one for one in advice.opinions if one.verdict not in WORTH]
    rest.sort(key=lambda one: -one.detection.value)
    return [*worth, *rest][:_MOST]


def _detection(ax: Axes, advice: Advice, shown: list[Opinion]) -> None:
    what = "given outliers" if advice.evidence == "outliers" else "proxies, mean over their kinds"
    for y, one in enumerate(shown):
        _dot(ax, one.detection, y, _colour(one))
        ax.text(103, y, f"{one.cost.ratio:.2f}×", fontsize=_SMALL, va="center", color=_colour(one))
    ax.text(103, -1, "price", fontsize=_SMALL, va="center", color=GREY)
    _rows(ax, shown)
    ax.set_xlim(-2, 118)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("caught (%), 95 % interval; price: times the classifier alone", fontsize=_SMALL)
    ax.set_title(f"Caught: {what}, {100 * advice.acceptance:g} % of ID accepted", fontsize=10)


def _acceptance(ax: Axes, advice: Advice) -> None:
    """Levels side by side: to scale those above 98 % would lie on one another."""
    levels = advice.levels
    x = range(len(levels))
    caught = [level.detection for level in levels]
    ax.fill_between(
        x, [100 * c.low for c in caught], [100 * c.high for c in caught], color=_BAND, zorder=1
    )
    ax.plot(x, [100 * c.value for c in caught], "o-", color=_DECIDES, markersize=4, zorder=3)
    for place, level in zip(x, levels, strict=True):
        ax.annotate(
            f"{level.threshold:.3g}",
            (place, 100 * level.detection.value),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=7,
            ha="center",
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
        )
    wanted = [level.acceptance for level in levels].index(advice.acceptance)
    ax.axvline(wanted, color="black", linewidth=1, linestyle="--")
    ax.set_xticks(x, [f"{100 * level.acceptance:g}" for level in levels])
    ax.set_ylim(-2, 106)
    ax.set_yticks(range(0, 101, 20))
    ax.grid(True, color="#E5E7EB", linewidth=0.6)
    ax.set_xlabel(
        "ID accepted (%), dashed as asked for; above the points: the threshold", fontsize=_SMALL
    )
    ax.set_ylabel("caught (%), 95 % interval", fontsize=_SMALL)
    ax.set_title(f"What acceptance costs: {advice.decides}", fontsize=10)


def _agreement(ax: Axes, advice: Advice, shown: list[Opinion]) -> None:
    names = [one.name for one in advice.opinions]
    at = [names.index(one.name) for one in shown]
    table = np.array(advice.agreement)[np.ix_(at, at)]
    ax.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for i, row in enumerate(table):
        for j, value in enumerate(row):
            ink = "white" if abs(value) > 0.7 else "black"
            text = f"{value:.2f}".replace("0.", ".").replace("1.00", "1")
            ax.text(j, i, text, fontsize=6, ha="center", va="center", color=ink)
    _rows(ax, shown)
    ax.set_xticks(range(len(shown)), [one.name for one in shown], rotation=60, ha="right")
    ax.set_title("Who ranks held-out ID alike (Spearman)", fontsize=10)


def _levels(ax: Axes, advice: Advice) -> None:
    """Without production: does held-out ID do what was promised?"""
    for y, level in enumerate(advice.levels):
        low, high = (100 * end for end in level.allowed)
        ax.barh(y, high - low, left=low, height=0.7, color=_BAND, zorder=1)
        inside = level.allowed[0] <= level.accepted.value <= level.allowed[1]
        _dot(ax, level.accepted, y, ID_COLOUR if inside else OOD_COLOURS[0])
    ax.set_yticks(
        range(len(advice.levels)), [f"{100 * one.acceptance:g} %" for one in advice.levels]
    )
    ax.set_ylim(len(advice.levels) - 0.4, -0.6)
    ax.set_xlabel(
        "held-out ID accepted (%), 95 % interval; band: what chance allows", fontsize=_SMALL
    )
    ax.set_title(f"Does the threshold of {advice.decides} hold?", fontsize=10)


def _production(ax: Axes, advice: Advice, shown: list[Opinion]) -> None:
    for y, one in enumerate(shown):
        if one.seen is None:
            continue
        _dot(ax, one.seen.flagged, y, _colour(one))
        if one.seen.at_least > 0:
            ax.plot(100 * one.seen.at_least, y, "|", color="black", markersize=9, zorder=4)
    ax.axvline(100 * (1 - advice.acceptance), color=GREY, linewidth=1, linestyle="--")
    _rows(ax, shown)
    captures = advice.production is not None and advice.production.captures
    about = "captures" if captures else "dashed: ID alone; bar: OOD share at least"
    ax.set_xlabel(f"flagged (%), 95 % interval; {about}", fontsize=_SMALL)
    ax.set_title("What production shows", fontsize=10)


def _dot(ax: Axes, share: Share, y: int, colour: str) -> None:
    ax.plot([100 * share.low, 100 * share.high], [y, y], color=colour, linewidth=1.6, zorder=2)
    ax.plot(100 * share.value, y, "o", color=colour, markersize=5, zorder=3)


def _rows(ax: Axes, shown: list[Opinion]) -> None:
    ax.set_yticks(range(len(shown)), [one.name for one in shown])
    for label, one in zip(ax.get_yticklabels(), shown, strict=True):
        label.set_color(_colour(one))
    ax.set_ylim(len(shown) - 0.4, -1.4 if ax.images == [] else -0.5)


def _colour(one: Opinion) -> str:
    if one.verdict == "decides":
        return _DECIDES
    return ID_COLOUR if one.verdict in WORTH else GREY
