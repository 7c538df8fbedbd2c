"""What editing, geometry and codecs do.  Lengths scale with the picture's side.

Pictures (N, H, W, C) in 0..1; severity 1..5; results may leave 0..1.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from training.data.corruptions.resampling import Floats, sample
from training.data.derived import Images, through_jpeg

_CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)  # of the distance from the mean
# shares of the shorter side: height of the waves, their smoothness, shift of the corners
_ELASTIC = (
    (0.0, 0.0, 0.08),
    (0.05, 0.2, 0.07),
    (0.08, 0.06, 0.06),
    (0.1, 0.04, 0.05),
    (0.1, 0.03, 0.03),
)
_PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)  # of the side
_JPEG = (80, 65, 58, 50, 40)  # quality
_SATURATE = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))  # times, plus


def contrast(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Every value moves towards the mean of its channel in this picture."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return (images - mean) * np.float32(_CONTRAST[severity - 1]) + mean


def elastic_transform(images: Floats, severity: int, rng: np.random.Generator) -> Floats:
    """A random affine map and, from severity 2 on, waves: less shift, more waves as it grows.

    So the distance from the clean picture does not rise with the severity.
    """
    count, height, width, _ = images.shape
    side = min(height, width)
    waves, smoothness, shift = (share * side for share in _ELASTIC[severity - 1])
    places = np.mgrid[:height, :width].astype(np.float64)  # (2, H, W)
    moved = np.broadcast_to(places, (count, 2, height, width))
    if waves:
        noise = rng.uniform(-1, 1, (count, 2, height, width))
        smooth = ndimage.gaussian_filter(
            noise, (0, 0, smoothness, smoothness), mode="reflect", truncate=3
        )
        moved = moved + waves * smooth
    maps = _affine_maps(count, height, width, shift, rng)
    rows, columns = np.moveaxis(
        np.einsum("nkd,nkhw->ndhw", maps[:, :2], moved) + maps[:, 2, :, None, None], 1, 0
    )
    return sample(images, rows, columns)


def pixelate(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Reduced to a share of its sides and enlarged again, without interpolation."""
    share = _PIXELATE[severity - 1]
    _, height, width, _ = images.shape
    small, whole = (int(width * share), int(height * share)), (width, height)

    def coarsen(image: Images) -> Images:
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        box = Image.Resampling.BOX
        return np.asarray(picture.resize(small, box).resize(whole, box)).reshape(image.shape)

    return _as_floats([coarsen(image) for image in _as_bytes(images)])


def jpeg_compression(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Through Pillow's JPEG encoder, colour at half resolution."""
    quality = _JPEG[severity - 1]
    return _as_floats([through_jpeg(image, quality) for image in _as_bytes(images)])


def saturate(images: Floats, severity: int, _: np.random.Generator) -> Floats:
    """Not in the suite: S of HSV changes, which leaves grey pictures as they are."""
    times, plus = _SATURATE[severity - 1]
    value = images.max(axis=3, keepdims=True)
    chroma = value - images.min(axis=3, keepdims=True)
    saturation = chroma / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * times + plus, 0, 1)
    ratio = wanted / np.where(chroma > 0, saturation, 1)
    return np.where(chroma > 0, value - (value - images) * ratio, images)


def _affine_maps(
    count: int, height: int, width: int, shift: float, rng: np.random.Generator
) -> Floats:
    """(count, 3, 2): [row, column, 1] of the result -> where it comes from.

    Three points a third of the side from the centre move by up to `shift` pixels each way.
    """
    third = min(height, width) // 3
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * third + np.array([height, width]) // 2
    moved = corners + rng.uniform(-shift, shift, (count, 3, 2))
    known = np.concatenate([moved, np.ones((count, 3, 1))], axis=2)
    return np.linalg.solve(known, np.broadcast_to(corners.astype(float), (count, 3, 2)))


def _as_bytes(images: Floats) -> Images:
    return np.rint(images * 255).astype(np.uint8)


def _as_floats(images: list[Images]) -> Floats:
    return np.stack(images).astype(np.float32) / 255
