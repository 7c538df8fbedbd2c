"""The registry and the one way in: uint8 pictures, a name, a severity, a seed."""

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.data.corruptions.blur import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from training.data.corruptions.digital import (
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    saturate,
)
from training.data.corruptions.noise import (
    gaussian_noise,
    impulse_noise,
    shot_noise,
    speckle_noise,
)
from training.data.corruptions.resampling import Floats
from training.data.corruptions.weather import brightness, fog, frost, snow

Corruption = Callable[[Floats, int, np.random.Generator], Floats]

SEVERITIES = (1, 2, 3, 4, 5)
# The fifteen of the publication and speckle: saturate does nothing to grey pictures and
# gaussian_blur repeats defocus_blur, so neither adds a sixteenth kind.  Four of each family.
CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "speckle_noise": speckle_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
EXTRA_CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_blur": gaussian_blur,
    "saturate": saturate,
}
_SMALLEST_SIDE = 8
_PIXELS_AT_ONCE = 1 << 20  # bounds the memory whatever the number and size of the pictures


def corrupt(
    images: NDArray[np.uint8], kind: str, severity: int, seed: int = 0
) -> NDArray[np.uint8]:
    """uint8 (N, H, W, C), C 1 or 3, sides from 8 pixels on -> the same shape, corrupted.

    The same arguments give the same pictures.  Raises ValueError naming what does not fit.
    """
    known = CORRUPTIONS | EXTRA_CORRUPTIONS
    if kind not in known:
        raise ValueError(f"no corruption {kind!r}; choose of {sorted(known)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; choose of {SEVERITIES}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"images are {images.dtype} {images.shape}; expected uint8 (N, H, W, 1 or 3)"
        )
    if min(images.shape[1:3]) < _SMALLEST_SIDE:
        raise ValueError(
            f"images are {images.shape[1]} x {images.shape[2]} pixels; corruptions need at least "
            f"{_SMALLEST_SIDE} a side"
        )
    result = np.empty_like(images)
    at_once = max(1, _PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), severity, start])
        changed = known[kind](images[part].astype(np.float32) / 255, severity, rng)
        # rounded, not cut off: else every corruption would also darken by half a level
        result[part] = np.rint(np.clip(changed, 0, 1) * 255)
    return result
