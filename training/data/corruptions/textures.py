"""Random textures: plasma clouds, and frost made by code (the published suite uses photographs)."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

Texture = NDArray[np.floating]

_FROST_SEED = 7  # five fixed textures, as there are five photographs
_FROST_COUNT = 5
_ICE = np.array([0.84, 0.93, 1.0], np.float32)  # a slight blue


def plasma(count: int, side: int, decay: float, rng: np.random.Generator) -> Texture:
    """Clouds (count, S, S) in 0..1, S the next power of two from `side` on.

    The diamond-square midpoint displacement on a torus: at each halving of the grid the
    random part shrinks by the square of `decay`, so a large decay makes smooth clouds.
    """
    size = 1 << (side - 1).bit_length()
    field = np.zeros((count, size, size), np.float32)
    step, amplitude = size, 1.0
    while step > 1:
        half = step // 2
        corners = field[:, ::step, ::step]
        right, below = np.roll(corners, -1, 2), np.roll(corners, -1, 1)
        centres = (corners + right + below + np.roll(below, -1, 2)) / 4
        centres += _shift(centres, amplitude, rng)
        field[:, half::step, half::step] = centres
        beside = (corners + below + centres + np.roll(centres, 1, 2)) / 4
        field[:, half::step, ::step] = beside + _shift(beside, amplitude, rng)
        between = (corners + right + centres + np.roll(centres, 1, 1)) / 4
        field[:, ::step, half::step] = between + _shift(between, amplitude, rng)
        step, amplitude = half, amplitude / decay**2
    low = field.min(axis=(1, 2), keepdims=True)
    return (field - low) / (field.max(axis=(1, 2), keepdims=True) - low)


@cache
def frost_textures(side: int, scale: float) -> Texture:
    """Five pictures of ice on a pane, (5, side, side, 3) in 0..1; `scale` enlarges the crystals.

    Six-armed ferns grow from random nuclei, each its own nearest region; thickness varies
    like a cloud.  The same five on every call.
    """
    rng = np.random.default_rng(_FROST_SEED)
    thickness = plasma(_FROST_COUNT, side, 1.3, rng)[:, :side, :side]
    bend = plasma(2 * _FROST_COUNT, side, 1.3, rng)[:, :side, :side] - 0.5
    pictures = [
        _ferns(side, scale, bend[2 * i : 2 * i + 2], rng) * (0.25 + thickness[i])
        for i in range(_FROST_COUNT)
    ]
    return np.minimum(np.stack(pictures), 1).astype(np.float32)[..., None] * _ICE


def _ferns(side: int, scale: float, bend: Texture, rng: np.random.Generator) -> Texture:
    """(side, side) in 0..1: spines every 60 degrees around a nucleus, branches 60 degrees off."""
    between = 20 * scale  # pixels from nucleus to nucleus
    nuclei = rng.uniform(0, side, (max(3, round((side / between) ** 2)), 2))
    turns = rng.uniform(0, np.pi / 3, len(nuclei))
    rows, columns = np.mgrid[:side, :side] + 6 * scale * bend
    radius, nearest = KDTree(nuclei).query(np.stack([rows, columns], axis=2))
    angle = np.arctan2(rows - nuclei[nearest, 0], columns - nuclei[nearest, 1]) - turns[nearest]
    from_spine = np.abs(np.mod(angle + np.pi / 6, np.pi / 3) - np.pi / 6)  # 0..30 degrees
    away, along = radius * np.sin(from_spine), radius * np.cos(from_spine)
    spine = np.exp(-away / (1.2 * scale))
    branch = 0.5 + 0.5 * np.cos(2 * np.pi * (along - away / np.sqrt(3)) / (5 * scale))
    grain = rng.random((side, side))
    value = 0.35 + 0.55 * np.maximum(spine, 0.8 * branch**2) + 0.10 * grain
    return value


def _shift(like: Texture, amplitude: float, rng: np.random.Generator) -> Texture:
    return (rng.random(like.shape, dtype=np.float32) * 2 - 1) * np.float32(amplitude)
