"""Weather and light.  Lengths are pixels of a 32 x 32 picture and scale with its side.

Pictures (N, H, W, C) in 0..1; severity 1..5; results may leave 0..1.
"""

from dataclasses import dataclass

import numpy as np

from training.data.corruptions.resampling import Floats, luma, scale_of, smear, zoom
from training.data.corruptions.textures import frost_textures, plasma


@dataclass(frozen=True)
class _Snow:
    """Flakes: normal noise, enlarged, everything below `threshold` dropped, then smeared."""

    mean: float
    deviation: float
    enlarged: float
    threshold: float
    radius: float  # of the smear, pixels
    sigma: float
    kept: float  # share of the picture; the rest is whitened


_SNOW = (
    _Snow(0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
    _Snow(0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
    _Snow(0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    _Snow(0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    _Snow(0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
_FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))  # share of picture, of ice
_FOG = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))  # density, smoothness
_BRIGHTNESS = (0.05, 0.10, 0.15, 0.20, 0.30)  # added to the V of HSV


def snow(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Falling flakes over a picture that pales; from the vertical at most 45 degrees."""
    at = _SNOW[severity - 1]
    count, height, width, _ = images.shape
    drawn = rng.standard_normal((count, height, width, 1), dtype=np.float32)
    scale = scale_of(images)
    layer = zoom(drawn * np.float32(at.deviation) + np.float32(at.mean), at.enlarged * scale)
    layer = np.where(layer < at.threshold, 0, np.minimum(layer, 1))
    angles = rng.uniform(-3 * np.pi / 4, -np.pi / 4, count)
    flakes = smear(layer, 2 * round(at.radius * scale), at.sigma * scale, angles)
    pale = np.maximum(images, luma(images) * 1.5 + 0.5)
    return at.kept * images + (1 - at.kept) * pale + flakes + flakes[:, ::-1, ::-1]


def frost(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Ice on the pane: a random part of one of five textures is added."""
    kept, ice = _FROST[severity - 1]
    count, height, width, channels = images.shape
    side = 3 * max(height, width)
    textures = frost_textures(side, scale_of(images))
    if channels == 1:
        textures = luma(textures)
    which = rng.integers(len(textures), size=count)[:, None, None]
    top = rng.integers(side - height + 1, size=count)[:, None, None]
    left = rng.integers(side - width + 1, size=count)[:, None, None]
    rows, columns = np.mgrid[:height, :width]
    return kept * images + ice * textures[which, top + rows, left + columns]


def fog(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """A bright cloud is laid over; the whole is scaled back to the picture's own maximum."""
    density, smoothness = _FOG[severity - 1]
    count, height, width, _ = images.shape
    cloud = plasma(count, max(height, width), smoothness, rng)[:, :height, :width, None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    return (images + density * cloud) * brightest / (brightest + density)


def brightness(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """V of HSV (the largest channel) rises; hue and saturation stay."""
    value = images.max(axis=3, keepdims=True)
    raised = np.minimum(value + np.float32(_BRIGHTNESS[severity - 1]), 1)
    coloured = images * (raised / np.where(value > 0, value, 1))
    return np.where(value > 0, coloured, raised)  # black has no hue and becomes grey
