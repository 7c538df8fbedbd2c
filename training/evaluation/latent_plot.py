"""The latent space in two dimensions: principal components of train-ID penultimate features."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from training.evaluation.canvas import (
    ID_COLOUR,
    OOD_COLOURS,
    label_edges,
    legend_below,
    panel_grid,
)
from training.evaluation.tables import Latents

_ID_POINTS = 2000
_OOD_POINTS = 600
_COLUMNS = 3
# light enough for black OOD marks on top; told apart by the class name written on each cluster
_CLASS_COLOURS = (ID_COLOUR, *OOD_COLOURS, "#8DA0CB", "#B3B300")


def latent_picture(latents: Latents) -> Figure:
    """First panel train-ID by class; then a panel for each OOD set laid over faint ID."""
    centre, axes_2d, explained = principal_plane(latents.id_features)
    shown = _thinned(len(latents.id_features), _ID_POINTS)
    id_points = (latents.id_features[shown] - centre) @ axes_2d  # (n, 2)
    labels = latents.id_labels[shown]
    names = list(latents.ood_features)
    figure, panels = panel_grid(
        1 + len(names),
        "Latent space: penultimate features on the first two principal components of train-ID",
        columns=_COLUMNS,
        panel=(3.6, 3.2),
    )
    _draw_classes(panels[0], id_points, labels, latents.class_names)
    clouds = [id_points]
    for ax, name in zip(panels[1:], names, strict=True):
        features = latents.ood_features[name]
        ood_points = (features[_thinned(len(features), _OOD_POINTS)] - centre) @ axes_2d
        clouds.append(ood_points)
        ax.scatter(*id_points.T, s=4, c="#B9D3E6", linewidths=0)
        ax.scatter(*ood_points.T, s=9, c="#B2410C", marker="x", linewidths=0.6, alpha=0.7)
        ax.set_title(name, fontsize=9)
    limits = _limits(np.concatenate(clouds))
    for ax in panels:
        ax.set_xlim(*limits[0])
        ax.set_ylim(*limits[1])
    label_edges(
        panels,
        _COLUMNS,
        f"PC 1 ({100 * explained[0]:.0f} % of variance)",
        f"PC 2 ({100 * explained[1]:.0f} %)",
    )
    marks = [
        Line2D([], [], marker="o", color="#B9D3E6", linestyle="", label="train ID"),
        Line2D([], [], marker="x", color="#B2410C", linestyle="", label="test OOD"),
    ]
    if names:
        legend_below(figure, marks)
    return figure


def principal_plane(
    features: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]:
    """Features (n, D) -> centre (D,), plane (D, 2), explained variance shares of both axes.

    The sign of an axis is fixed (largest entry positive), so pictures can be compared.
    With D = 1 the second axis is zero.
    """
    centre = features.mean(axis=0, dtype=np.float64)
    thinned = features[_thinned(len(features), 20_000)]
    _, singular, directions = np.linalg.svd(thinned - centre, full_matrices=False)
    plane = np.zeros((features.shape[1], 2))
    kept = min(2, len(directions))
    plane[:, :kept] = directions[:kept].T
    for i in range(kept):
        plane[:, i] *= np.sign(plane[np.argmax(np.abs(plane[:, i])), i]) or 1.0
    variance = singular**2
    shares = np.r_[variance / (variance.sum() or 1.0), 0.0]
    return centre, plane, (float(shares[0]), float(shares[1]))


def _draw_classes(
    ax: Axes,
    points: NDArray[np.float64],
    labels: NDArray[np.integer],
    class_names: tuple[str, ...],
) -> None:
    few = len(class_names) <= 20
    for label in np.unique(labels):
        own = points[labels == label]
        colour = _CLASS_COLOURS[int(label) % len(_CLASS_COLOURS)]
        ax.scatter(*own.T, s=4, color=colour, alpha=0.5, linewidths=0)
        if few:
            name = class_names[int(label)][:14]
            x, y = np.median(own, axis=0)
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
            ax.text(x, y, name, fontsize=7, ha="center", va="center", bbox=box)
    ax.set_title(f"train ID, {len(class_names)} classes", fontsize=9)


def _limits(points: NDArray[np.float64]) -> list[tuple[float, float]]:
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    pad = np.where(high > low, 0.06 * (high - low), 1.0)
    return [(float(low[i] - pad[i]), float(high[i] + pad[i])) for i in range(2)]


def _thinned(count: int, limit: int) -> NDArray[np.intp]:
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
