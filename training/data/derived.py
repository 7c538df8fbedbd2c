"""Sets made by code: noise, ID re-encoded (the artefact control), proxy outliers.

Proxy outliers may tune something; a set that is reported may not.  The two never share a
generator: noise is reported, jigsaw and pixelate are proxies.  (FSSD's centre is made of noise by
definition; a report says so beside its rows on noise.)
"""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import ImageInput
from training.data.image_set import ImageSet

Images = NDArray[np.uint8]


def read_noise(
    name: str, spec: ImageInput, *, kind: str, count: int = 10_000, seed: int = 0
) -> ImageSet:
    """`uniform`: each pixel U{0..255}; `gaussian`: N(127.5, 63.75) per pixel, clipped."""
    rng = np.random.default_rng(seed)
    shape = (count, spec.height, spec.width, spec.channels)
    if kind == "uniform":
        images = rng.integers(0, 256, shape, dtype=np.uint8)
    elif kind == "gaussian":
        images = np.clip(rng.normal(127.5, 63.75, shape), 0, 255).round().astype(np.uint8)
    else:
        raise ValueError(f"{name}: noise kind {kind!r}; choose uniform or gaussian")
    return ImageSet(name, images, np.full(count, -1), (), f"{kind} noise, seed {seed}")


def reencode_jpeg(images: ImageSet, quality: int = 75) -> ImageSet:
    """The same content through a JPEG encoder: a detector that fires here sees artefacts."""
    return replace(
        images,
        name=f"{images.name}-jpeg{quality}",
        images=np.stack([_through_jpeg(image, quality) for image in images.images]),
        origin=f"{images.origin}, re-encoded as JPEG quality {quality}",
    )


def jigsaw(images: Images, rng: np.random.Generator, tiles: int = 4) -> Images:
    """Cut each image (N,H,W,C) into tiles x tiles pieces and shuffle them.

    Sides that `tiles` does not divide are cut down to the next multiple and padded back by
    edge repetition.
    """
    count, height, width, channels = images.shape
    high, wide = height // tiles, width // tiles
    pieces = images[:, : high * tiles, : wide * tiles].reshape(
        count, tiles, high, tiles, wide, channels
    )
    pieces = pieces.transpose(0, 1, 3, 2, 4, 5).reshape(count, tiles**2, high, wide, channels)
    order = rng.permuted(np.tile(np.arange(tiles**2), (count, 1)), axis=1)
    pieces = np.take_along_axis(pieces, order[:, :, None, None, None], axis=1)
    pieces = pieces.reshape(count, tiles, tiles, high, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    whole = pieces.reshape(count, high * tiles, wide * tiles, channels)
    padding = ((0, 0), (0, height - high * tiles), (0, width - wide * tiles), (0, 0))
    return np.pad(whole, padding, mode="edge")


def pixelate(images: Images, rng: np.random.Generator, block: int = 7) -> Images:
    """Replace each block x block square of (N,H,W,C) by one of its own pixels."""
    rows = np.arange(images.shape[1]) // block * block
    columns = np.arange(images.shape[2]) // block * block
    shift_rows, shift_columns = rng.integers(0, block, 2)
    rows = np.minimum(rows + shift_rows, images.shape[1] - 1)
    columns = np.minimum(columns + shift_columns, images.shape[2] - 1)
    return images[:, rows][:, :, columns]


PROXIES: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "jigsaw": jigsaw,
    "pixelate": pixelate,
}


def proxy_outliers(id_images: ImageSet, kinds: tuple[str, ...], seed: int) -> dict[str, ImageSet]:
    """Proxy outliers made from ID images, by name; ValueError if unknown."""
    unknown = set(kinds) - set(PROXIES)
    if unknown:
        raise ValueError(f"unknown proxy outliers {sorted(unknown)}; choose of {sorted(PROXIES)}")
    rng = np.random.default_rng(seed)
    unlabelled = np.full(len(id_images), -1)
    return {
        kind: replace(
            id_images,
            name=kind,
            images=np.ascontiguousarray(PROXIES[kind](id_images.images, rng)),
            labels=unlabelled,
            origin=f"{kind} of {id_images.name}, seed {seed}",
        )
        for kind in kinds
    }


def _through_jpeg(image: Images, quality: int) -> Images:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(
        buffer, "JPEG", quality=quality
    )
    return np.asarray(Image.open(buffer), np.uint8).reshape(image.shape)
