"""The report's pictures, one figure a topic.  Higher score = more OOD.

Detectors have unrelated units and tails, so score axes are standardised: 0 is the calibration
median, 1 its robust standard deviation (1.4826 MAD), on an asinh scale that is linear near 0
and logarithmic far out.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from service.bundle import p_values
from training.evaluation.canvas import (
    GREY,
    ID_COLOUR,
    OOD_COLOURS,
    label_edges,
    legend_below,
    ood_style,
    panel_grid,
)
from training.evaluation.records import CalibrationRecord
from training.evaluation.tables import Scores

_COLUMNS = 4
_BAND = "#CFE3F1"
_KEPT, _BROKEN = ID_COLOUR, OOD_COLOURS[0]
_ROC_LINES = 8  # more cannot be told apart; the rest is grey
_REACH = 300.0  # standardised scores are drawn within +-300
_TICKS = (0, -1, 1, -3, 3, -10, 10, -30, 30, -100, 100)  # the first ones win over near ones


def score_histograms(scores: Scores) -> Figure:
    """A panel for each detector: calibration-ID, test-ID and every OOD set, with the threshold."""
    figure, axes = panel_grid(len(scores.detectors), "Scores (higher = more OOD)")
    for ax, detector in zip(axes, scores.detectors, strict=True):
        calibration = np.asarray(scores.calibration[detector], dtype=np.float64)
        median, spread = _robust_scale(calibration)
        drawn = {"calibration ID": calibration, "test ID": scores.id_test[detector]}
        drawn |= {name: by_detector[detector] for name, by_detector in scores.ood.items()}
        placed = {name: _placed(values, median, spread) for name, values in drawn.items()}
        edges = _common_edges(list(placed.values()))
        for i, (name, values) in enumerate(placed.items()):
            _draw_histogram(ax, values, edges, name, i)
        threshold = float(_placed(np.array([scores.thresholds[detector]]), median, spread)[0])
        ax.axvline(
            threshold, color="black", linewidth=1.2, linestyle=(0, (4, 2)), label="threshold"
        )
        ax.set_title(f"{detector}   τ = {scores.thresholds[detector]:.4g}", fontsize=9)
        ax.set_xlim(edges[0], edges[-1])
        ticks = _ticks_within(float(edges[0]), float(edges[-1]))
        ax.set_xticks([math.asinh(t) for t in ticks], [f"{t:g}" for t in ticks])
        ax.set_yticks([])
    label_edges(axes, _COLUMNS, "score, calibration σ from median", "share of inputs")
    legend_below(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def roc_curves(scores: Scores, primary: str = "") -> Figure:
    """A panel for each OOD set; false alarms on a log axis, since deployment lives at 1-10 %.

    `primary`: the detector that decides, drawn in black over the others."""
    first = [detector for detector in scores.detectors if detector == primary]
    others = [detector for detector in scores.detectors if detector != primary]
    figure, axes = panel_grid(
        len(scores.ood), "ROC: OOD caught against ID falsely rejected", columns=3, panel=(3.6, 3.1)
    )
    floor = 1.0 / max(len(next(iter(scores.id_test.values()))), 10)
    for ax, (name, by_detector) in zip(axes, scores.ood.items(), strict=True):
        for i, detector in enumerate([*first, *others], start=1 - len(first)):
            rejected, caught = _roc(scores.id_test[detector], by_detector[detector])
            keep = rejected >= floor
            colour, line, label = _roc_style(i, detector)
            ax.plot(
                rejected[keep], caught[keep], line, color=colour, label=label, zorder=3 - i / 100
            )  # the first detectors lie on top
        chance = np.geomspace(floor, 1.0, 100)
        ax.plot(chance, chance, color=GREY, linewidth=0.8, linestyle=":", label="chance")
        ax.axvline(0.05, color=GREY, linewidth=0.8, linestyle="--", label="5 % false alarms")
        ax.set_xscale("log")
        ax.set_xlim(floor, 1.0)
        ax.set_ylim(0.0, 1.01)
        decades = [10.0**-k for k in range(5) if 10.0**-k >= floor]
        ax.set_xticks(decades, [f"{100 * d:g}" for d in decades])
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
        ax.set_title(name, fontsize=9)
    label_edges(axes, 3, "ID rejected (%, log scale)", "OOD caught (%)")
    legend_below(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def _roc_style(place: int, detector: str) -> tuple[str, str, str | None]:
    """Colour, line and label of a detector; 0 is that of the one that decides."""
    if place == 0:
        return "black", "-", f"{detector} (decides)"
    if place <= _ROC_LINES:
        return *ood_style(place - 1), detector
    return "#C4C8CE", "-", "others" if place == _ROC_LINES + 1 else None


def calibration_plot(records: Sequence[CalibrationRecord]) -> Figure:
    """A panel for each nominal acceptance; the band is what chance allows (99 %)."""
    levels = sorted({row.nominal for record in records for row in record.rows})
    figure, axes = panel_grid(
        max(len(levels), 1),
        "Does the threshold hold?  Acceptance of test-ID against its promise",
        columns=3,
        panel=(3.6, 0.9 + 0.2 * len(records)),
    )
    names = [record.detector for record in records]
    for ax, level in zip(axes, levels, strict=False):
        for y, record in enumerate(records):
            for row in (row for row in record.rows if row.nominal == level):
                width = row.high - row.low
                ax.barh(y, 100 * width, left=100 * row.low, height=0.7, color=_BAND, zorder=1)
                colour, marker = (_KEPT, "o") if row.inside else (_BROKEN, "X")
                ax.plot(100 * row.realised, y, marker, color=colour, markersize=5, zorder=3)
        ax.axvline(100 * level, color="black", linewidth=1, linestyle="--", zorder=2)
        ax.set_title(f"nominal {100 * level:g} %", fontsize=9)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.set_yticks(range(len(names)), names if ax is axes[0] else [])
        ax.set_xlabel("test-ID accepted (%)", fontsize=8)
    marks: list[Artist] = [
        Patch(color=_BAND, label="what chance allows (99 %)"),
        Line2D([], [], marker="o", color=_KEPT, linestyle="", label="realised, inside"),
        Line2D([], [], marker="X", color=_BROKEN, linestyle="", label="realised, outside"),
    ]
    legend_below(figure, marks)
    return figure


def p_value_histograms(scores: Scores, bins: int = 20) -> Figure:
    """A panel for each detector: conformal p-values, flat for ID, piled up at 0 for OOD."""
    figure, axes = panel_grid(
        len(scores.detectors), "Conformal p-values: flat for ID, near 0 for OOD"
    )
    edges = np.linspace(0.0, 1.0, bins + 1)
    for ax, detector in zip(axes, scores.detectors, strict=True):
        calibration = np.sort(np.asarray(scores.calibration[detector], dtype=np.float64))
        own = p_values(calibration, np.asarray(scores.id_test[detector], dtype=np.float64))
        share = 1.0 / bins
        both = 1.0 / calibration.size + 1.0 / own.size
        reach = 2.576 * math.sqrt(share * (1 - share) * both) / share  # 99 % a bin
        ax.axhspan(1 - reach, 1 + reach, color=_BAND, zorder=0.5, label="chance, 99 % a bin")
        for i, (name, values) in enumerate({"test ID": own, **_ood_p(scores, detector)}.items()):
            colour, line = (ID_COLOUR, "-") if i == 0 else ood_style(i - 1)
            height = np.histogram(values, edges)[0] * bins / values.size
            ax.stairs(height, edges, color=colour, linestyle=line, label=name, baseline=None)
        ax.set_yscale("symlog", linthresh=2.0)
        ax.set_ylim(0.0, bins * 1.1)
        ax.set_yticks([0, 1, 2, 5, 20], ["0", "1", "2", "5", "20"])
        ax.minorticks_off()
        ax.set_xlim(0.0, 1.0)
        ax.set_title(detector, fontsize=9)
    label_edges(axes, _COLUMNS, "p-value", "density (1 = uniform)")
    legend_below(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def _ood_p(scores: Scores, detector: str) -> dict[str, NDArray[np.float64]]:
    calibration = np.sort(np.asarray(scores.calibration[detector], dtype=np.float64))
    return {
        name: p_values(calibration, np.asarray(by_detector[detector], dtype=np.float64))
        for name, by_detector in scores.ood.items()
    }


def _ticks_within(low: float, high: float) -> list[int]:
    kept: list[int] = []
    for tick in _TICKS:
        at = math.asinh(tick)
        clear = all(abs(at - math.asinh(other)) > 0.09 * (high - low) for other in kept)
        if low <= at <= high and clear:
            kept.append(tick)
    return sorted(kept)


def _robust_scale(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    median = float(np.median(finite))
    spread = 1.4826 * float(np.median(np.abs(finite - median)))
    return median, spread or float(np.std(finite)) or 1.0


def _placed(values: NDArray[np.floating], median: float, spread: float) -> NDArray[np.float64]:
    standardised = (np.asarray(values, dtype=np.float64) - median) / spread
    return np.arcsinh(np.clip(standardised, -_REACH, _REACH))


def _common_edges(parts: list[NDArray[np.float64]], bins: int = 60) -> NDArray[np.float64]:
    low = min(float(np.quantile(part, 0.001)) for part in parts)
    high = max(float(np.quantile(part, 0.999)) for part in parts)
    pad = 0.03 * (high - low) or 0.5
    return np.linspace(low - pad, high + pad, bins + 1)


def _draw_histogram(
    ax: Axes, values: NDArray[np.float64], edges: NDArray[np.float64], name: str, position: int
) -> None:
    height = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / values.size
    if position == 0:
        ax.stairs(height, edges, color="#9CC3E0", fill=True, alpha=0.7, label=name)
        return
    colour, line = (ID_COLOUR, "-") if position == 1 else ood_style(position - 2)
    ax.stairs(height, edges, color=colour, linestyle=line, linewidth=1.2, label=name)


def _roc(
    id_scores: NDArray[np.floating], ood_scores: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of ID and OOD above each of up to 2,000 thresholds, both rising from 0 to 1."""
    id_sorted, ood_sorted = np.sort(id_scores), np.sort(ood_scores)
    pooled = np.unique(np.concatenate([id_sorted, ood_sorted]))[::-1]
    picked = pooled[np.unique(np.geomspace(1, pooled.size, 2000).astype(int)) - 1]
    rejected = 1.0 - np.searchsorted(id_sorted, picked, side="left") / id_sorted.size
    caught = 1.0 - np.searchsorted(ood_sorted, picked, side="left") / ood_sorted.size
    return np.r_[0.0, rejected], np.r_[0.0, caught]
