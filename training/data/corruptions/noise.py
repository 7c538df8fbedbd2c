"""Noise: every value of every channel is disturbed on its own.  Constants need no scaling.

Pictures (N, H, W, C) in 0..1; severity 1..5; results may leave 0..1.
"""

import numpy as np

from training.data.corruptions.resampling import Floats

_GAUSSIAN = (0.04, 0.06, 0.08, 0.09, 0.10)  # standard deviation
_SHOT = (500, 250, 100, 75, 50)  # photons that make full white
_IMPULSE = (0.01, 0.02, 0.03, 0.05, 0.07)  # share of values lost
_SPECKLE = (0.06, 0.10, 0.12, 0.16, 0.20)  # standard deviation, relative to the value


def gaussian_noise(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """The sensor in the dark: the same spread everywhere."""
    return images + _normal(images, rng) * np.float32(_GAUSSIAN[severity - 1])


def shot_noise(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Light comes in photons: Poisson counts, the spread grows with the root of the value."""
    photons = _SHOT[severity - 1]
    return rng.poisson(images * photons) / photons


def impulse_noise(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """Salt and pepper in equal parts: a value becomes 1 or 0."""
    share = _IMPULSE[severity - 1]
    drawn = rng.random(images.shape, dtype=np.float32)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, images))


def speckle_noise(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """The spread grows with the value itself; black stays black."""
    return images * (1 + _normal(images, rng) * np.float32(_SPECKLE[severity - 1]))


def _normal(images: Floats, rng: np.random.Generator) -> Floats:
    return rng.standard_normal(images.shape, dtype=np.float32)
