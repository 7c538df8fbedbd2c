"""Sets made by code: noise, ID re-encoded (the artefact control), proxy outliers.

Proxy outliers may tune something; a set that is reported may not.  The two never share a
generator: noise is reported, what PROXIES makes is not.  (FSSD's centre is made of noise by
definition; a report says so beside its rows on noise.)

Each proxy breaks another property of ID images and leaves the rest, from near to far:
mixup           two objects of different classes at once; everything else is ID
quarter_turn    the orientation
jigsaw          the layout; the texture stays
pixelate        the detail; the layout stays
phase_scramble  all structure; the spectrum stays
invert          the brightness; the shapes stay
None draws strokes or characters, or adds noise to single pixels: such sets are reported.
"""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import ImageInput
from training.data.image_set import ImageSet
from training.data.sources import read_npz

Images = NDArray[np.uint8]


def read_noise(
    name: str, spec: ImageInput, *, kind: str, count: int = 10_000, seed: int = 0
) -> ImageSet:
    """`uniform`: each pixel U{0..255}; `bright`: U{128..255}, which is U[0, 1] where pixels are
    normalised to [-1, 1]; `gaussian`: N(127.5, 63.75) per pixel, clipped."""
    rng = np.random.default_rng(seed)
    shape = (count, spec.height, spec.width, spec.channels)
    if kind == "uniform":
        images = rng.integers(0, 256, shape, dtype=np.uint8)
    elif kind == "bright":
        images = rng.integers(128, 256, shape, dtype=np.uint8)
    elif kind == "gaussian":
        images = np.clip(rng.normal(127.5, 63.75, shape), 0, 255).round().astype(np.uint8)
    else:
        raise ValueError(f"{name}: noise kind {kind!r}; choose uniform, bright or gaussian")
    return ImageSet(name, images, np.full(count, -1), (), f"{kind} noise, seed {seed}")


def read_noisy(
    name: str, spec: ImageInput, *, path: str, amplitude: float, seed: int = 0
) -> ImageSet:
    """The images of an npz file, each pixel plus U[0, 255 amplitude], clipped at 255.

    With 0.5 the "MNIST-noise" of open-set recognition: there pixels lie in [-1, 1], U[0, 1] is
    added, and nothing is clipped.
    """
    if not 0 < amplitude <= 1:
        raise ValueError(f"{name}: amplitude is {amplitude}; choose above 0, at most 1")
    found = read_npz(name, spec, path=path)
    noise = np.random.default_rng(seed).uniform(0, 255 * amplitude, found.inputs.shape)
    noisy = np.minimum(found.inputs + noise, 255).round().astype(np.uint8)
    return replace(
        found, inputs=noisy, origin=f"{found.origin} plus U[0, {amplitude:g}], seed {seed}"
    )


def reencode_jpeg(images: ImageSet, quality: int = 75) -> ImageSet:
    """The same content through a JPEG encoder: a detector that fires here sees artefacts."""
    return images.changed(
        lambda image: through_jpeg(image, quality),
        f"{images.name}-jpeg{quality}",
        f"{images.origin}, re-encoded as JPEG quality {quality}",
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
    padding = np.array([(0, 0), (0, height - high * tiles), (0, width - wide * tiles), (0, 0)])
    return np.pad(whole, padding, mode="edge")


def pixelate(images: Images, rng: np.random.Generator, block: int = 7) -> Images:
    """Replace each block x block square of (N,H,W,C) by one of its own pixels."""
    rows = np.arange(images.shape[1]) // block * block
    columns = np.arange(images.shape[2]) // block * block
    shift_rows, shift_columns = rng.integers(0, block, 2)
    rows = np.minimum(rows + shift_rows, images.shape[1] - 1)
    columns = np.minimum(columns + shift_columns, images.shape[2] - 1)
    return images[:, rows][:, :, columns]


def mixup(images: Images, labels: NDArray[np.int64], rng: np.random.Generator) -> Images:
    """The mean of each image (N,H,W,C) and one of another class, drawn uniformly.

    ValueError where all images are of one class.
    """
    partners = np.empty(len(images), np.int64)
    for label in np.unique(labels):
        own, others = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        if len(others) == 0:
            raise ValueError(f"mixup: all images have the label {label}; it needs two classes")
        partners[own] = rng.choice(others, len(own))
    return ((images.astype(np.uint16) + images[partners] + 1) // 2).astype(np.uint8)


def quarter_turn(images: Images, rng: np.random.Generator) -> Images:
    """Turn each image (N,H,W,C) by 90 degrees, to the left or to the right.

    Of an image that is not square, the square in the middle turns.
    """
    side = min(images.shape[1:3])
    top, left = (images.shape[1] - side) // 2, (images.shape[2] - side) // 2
    turned = images.copy()
    square = images[:, top : top + side, left : left + side]
    to_left = rng.integers(0, 2, len(images)).astype(bool)[:, None, None, None]
    turned[:, top : top + side, left : left + side] = np.where(
        to_left, np.rot90(square, 1, (1, 2)), np.rot90(square, 3, (1, 2))
    )
    return turned


def phase_scramble(images: Images, rng: np.random.Generator) -> Images:
    """Random phases for the Fourier transform of each image (N,H,W,C), the same in all channels.

    The phases are those of white noise, so that the result is real; mean and amplitudes stay,
    but for the clipping to 0..255.
    """
    noise = np.fft.fft2(rng.normal(size=images.shape[:3]), axes=(1, 2))
    phases = np.exp(1j * np.angle(noise))[..., None]
    phases[:, 0, 0] = 1  # the mean
    spectrum = np.fft.fft2(images.astype(np.float64), axes=(1, 2))
    scrambled = np.fft.ifft2(spectrum * phases, axes=(1, 2)).real
    return np.clip(scrambled, 0, 255).round().astype(np.uint8)


def invert(images: Images, rng: np.random.Generator) -> Images:
    """255 minus each value; nothing is drawn."""
    return 255 - images


def _of_pixels(
    make: Callable[[Images, np.random.Generator], Images],
) -> Callable[[ImageSet, np.random.Generator], Images]:
    """A generator that needs no labels, called like one that does."""
    return lambda id_images, rng: make(np.asarray(id_images.inputs), rng)


PROXIES: dict[str, Callable[[ImageSet, np.random.Generator], Images]] = {
    "jigsaw": _of_pixels(jigsaw),
    "pixelate": _of_pixels(pixelate),
    "mixup": lambda id_images, rng: mixup(np.asarray(id_images.inputs), id_images.labels, rng),
    "quarter_turn": _of_pixels(quarter_turn),
    "phase_scramble": _of_pixels(phase_scramble),
    "invert": _of_pixels(invert),
}


def proxy_outliers(id_images: ImageSet, kinds: tuple[str, ...], seed: int) -> dict[str, ImageSet]:
    """Proxy outliers made from ID images, by name; ValueError if unknown.

    One random stream serves all kinds in the order given.
    """
    unknown = set(kinds) - set(PROXIES)
    if unknown:
        raise ValueError(f"unknown proxy outliers {sorted(unknown)}; choose of {sorted(PROXIES)}")
    rng = np.random.default_rng(seed)
    unlabelled = np.full(len(id_images), -1)
    return {
        kind: ImageSet(
            kind,
            np.ascontiguousarray(PROXIES[kind](id_images, rng)),
            unlabelled,
            id_images.class_names,
            f"{kind} of {id_images.name}, seed {seed}",
        )
        for kind in kinds
    }


def through_jpeg(image: Images, quality: int) -> Images:
    """One image (H, W, C), C 1 or 3, through Pillow's JPEG encoder and back."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(
        buffer, "JPEG", quality=quality
    )
    return np.asarray(Image.open(buffer), np.uint8).reshape(image.shape)
