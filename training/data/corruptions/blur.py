"""Blur: lens, glass, movement.  Lengths are pixels of a 32 x 32 picture and scale with its side.

Pictures (N, H, W, C) in 0..1; severity 1..5.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.data.corruptions.resampling import Floats, convolve, scale_of, smear, zoom

_DEFOCUS = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))  # disc radius, its soft edge
# blur before and after, offset of neighbours, passes
_GLASS = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
_MOTION = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))  # radius, standard deviation
_ZOOM = (1.05, 1.10, 1.15, 1.20, 1.25)  # the largest factor
_ZOOM_STEP = 0.01
_GAUSSIAN = (0.4, 0.6, 0.7, 0.8, 1.0)  # standard deviation
_STEEPEST = np.pi / 4


def defocus_blur(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Out of focus: every point becomes a disc."""
    radius, softness = (value * scale_of(images) for value in _DEFOCUS[severity - 1])
    return convolve(images, _disc(radius, softness))


def glass_blur(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Frosted glass: every pixel shows a near neighbour, between two slight blurs.

    The neighbour lies -offset..offset - 1 rows and columns away, in each pass anew.
    """
    sigma, offset, passes = _GLASS[severity - 1]
    sigma *= scale_of(images)
    offset = round(offset * scale_of(images))
    count, height, width, _ = images.shape
    which = np.arange(count)[:, None, None]
    places = np.mgrid[:height, :width]  # (2, H, W)
    shown = _soften(images, sigma)
    for _ in range(passes):
        rows, columns = rng.integers(-offset, offset, (2, count, height, width)) + places[:, None]
        shown = shown[which, np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
    return _soften(shown, sigma)


def motion_blur(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """The camera moved in one direction, at most 45 degrees from the horizontal."""
    radius, sigma = (value * scale_of(images) for value in _MOTION[severity - 1])
    angles = rng.uniform(-_STEEPEST, _STEEPEST, len(images))
    return smear(images, 2 * round(radius), sigma, angles)


def zoom_blur(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """The camera moved forward: the mean of ever larger pictures, the sharp one counted twice."""
    steps = round((_ZOOM[severity - 1] - 1) / _ZOOM_STEP)
    total = 2 * images
    for step in range(1, steps + 1):
        total += zoom(images, 1 + step * _ZOOM_STEP)
    return total / np.float32(steps + 2)


def gaussian_blur(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Not in the suite: at this size hardly different from defocus."""
    return _soften(images, _GAUSSIAN[severity - 1] * scale_of(images))


def _soften(images: Floats, sigma: float) -> Floats:
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


def _disc(radius: float, softness: float) -> NDArray[np.float64]:
    """A disc of `radius` smoothed by a Gaussian that is cut off near twice its deviation."""
    margin = max(1, round(2 * softness))
    reach = int(radius) + margin
    steps = np.arange(-reach, reach + 1)
    disc = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).astype(np.float64)
    profile = np.exp(-0.5 * (np.arange(-margin, margin + 1) / softness) ** 2)
    for axis in (0, 1):
        disc = ndimage.convolve1d(disc, profile, axis=axis, mode="constant")
    return disc / disc.sum()
