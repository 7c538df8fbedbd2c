"""The pictures of docs/scores.md:  python -m benchmarks.score_pictures [NAME...]

One a detector: what its score says of every image of two pixels (benchmarks.score_world).
"""

import io
import sys
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.score_world import STEP, ScoreWorld, grid, make_world, points, scored
from service.bundle import threshold_at
from training.detectors import DETECTORS, HEAD_OF, READS_OUTLIERS
from training.graph_detectors import GRAPH_DETECTORS

matplotlib.use("Agg")

FOLDER = Path(__file__).parents[1] / "docs" / "scores"
NAMES = (*DETECTORS, *GRAPH_DETECTORS)
_COLOURS = 64  # of a picture's palette
_DOTS = 150
_CALIBRATION = 2000
_ACCEPTANCE = 0.95


def draw(world: ScoreWorld, name: str, path: Path) -> None:
    """Bright: OOD, by rank among all points; the line: the threshold that keeps 95 % of ID."""
    from matplotlib.figure import Figure

    side = 256 // STEP
    scores = scored(world, name, grid())
    held_out = scored(world, name, points(_CALIBRATION, seed=4)[0])
    threshold = threshold_at(np.sort(held_out.astype(np.float32)), _ACCEPTANCE)
    figure = Figure(figsize=(2.4, 2.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    extent = (0, 255, 0, 255)
    ranks = _ranks(scores).reshape(side, side)
    axes.imshow(ranks, origin="lower", extent=extent, cmap="magma", interpolation="bilinear")
    inside = (scores <= threshold).reshape(side, side).astype(float)
    axes.contour(
        inside, levels=[0.5], origin="lower", extent=extent, colors="white", linewidths=1.2
    )
    dots, labels = points(_DOTS, seed=5)
    for label, colour in enumerate(("#4cc9f0", "#80ed99", "#ffd166")):
        plane = dots[labels == label].reshape(-1, 2)
        axes.scatter(plane[:, 0], plane[:, 1], s=5, c=colour, linewidths=0)
    if name in HEAD_OF or name in READS_OUTLIERS:
        cloud = world.outliers.inputs[:40].reshape(-1, 2)
        axes.scatter(cloud[:, 0], cloud[:, 1], s=10, c="black", marker="x", linewidths=0.7)
    axes.set_xlim(0, 255)
    axes.set_ylim(0, 255)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, metadata={"Software": None})
    with Image.open(drawn) as picture:
        small = picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """0..1, ties alike."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts / 2)[inverse] / len(scores)


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    world = make_world()
    for name in names or NAMES:
        draw(world, name, FOLDER / f"{name}.png")
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
