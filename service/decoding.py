"""Encoded image -> model pixels.  Limits are enforced from the header, before pixels exist."""

import io
import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from service.bundle import ImageInput, to_model_pixels
from service.errors import (
    ImageAnimated,
    ImageTooLarge,
    ImageTooManyPixels,
    ImageUnreadable,
    ServiceError,
)

# The only decoders that untrusted bytes reach.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
CONTENT_TYPES = ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif")
# A JPEG of a phone may carry a second picture (format "MPO"); the first is the photograph.
_ANIMATED_FORMATS = frozenset({"PNG", "WEBP", "GIF"})
# The last chunk of every PNG, always the same: no data, and the CRC of its name.
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
# metadata before the frame header; more is not worth a look
_JPEG_SEGMENTS = 32

# Pillow's own, process-wide limit only warns up to twice its value; ours replaces it.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class ImageLimits:
    max_bytes: int
    max_pixels: int


def decode_image(
    data: bytes, limits: ImageLimits, reserve: Callable[[int], None] = lambda _: None
) -> Image.Image:
    """Encoded bytes -> fully decoded image of any mode.

    `reserve` hears once how many pixels it has, before they exist, and may wait or raise.
    Raises ImageTooLarge, ImageTooManyPixels, ImageAnimated, ImageUnreadable and what `reserve`
    raises; nothing else, whatever the bytes.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(len(data), limits.max_bytes)
    with _refusing("cannot be decoded"):
        # Pillow's WebP decoder allocates its canvas when it opens a file
        if canvas := _webp_canvas(data):
            _check_pixels(*canvas, limits)
            reserve(canvas[0] * canvas[1])
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_pixels(image.width, image.height, limits)
        if image.format in _ANIMATED_FORMATS and getattr(image, "is_animated", False):
            raise ImageAnimated
        # Pillow refuses cut files of the other formats, but reads a PNG once it has the pixels;
        # what stands behind the end is not our business
        if image.format == "PNG" and data.rfind(_PNG_END) < 0:
            raise ImageUnreadable("the PNG is cut: its last chunk, IEND, is missing")
        if not canvas:
            reserve(image.width * image.height)
        image.load()
        return image


def image_to_pixels(image: Image.Image, spec: ImageInput) -> NDArray[np.uint8]:
    """Decoded image -> uint8 (height, width, channels).  Raises ImageUnreadable."""
    with _refusing("cannot be brought to the model's size"):
        return to_model_pixels(image, spec)


@contextmanager
def _refusing(problem: str) -> Generator[None]:
    """Whatever a decoder throws at hostile bytes is the image's fault, not ours."""
    try:
        yield
    except ServiceError:
        raise
    except UnidentifiedImageError as exc:
        raise ImageUnreadable(f"the image is none of {', '.join(FORMATS)}") from exc
    except Exception as exc:
        # Pillow raises OSError, SyntaxError, ValueError, struct.error, IndexError, ...
        raise ImageUnreadable(f"the image {problem}: {exc}") from exc


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise ImageTooManyPixels(width, height, limits.max_pixels)


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """(width, height) from a WebP header, None for other formats (RFC 9649)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return width, height
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def announced_pixels(data: bytes) -> int | None:
    """What the header says, read in a microsecond and believed by nobody: for estimates alone."""
    size: tuple[int, int] | None = None
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        size = struct.unpack_from(">II", data, 16)
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg_size(data)
    elif data.startswith(b"GIF8") and len(data) >= 10:
        size = struct.unpack_from("<HH", data, 6)
    elif data.startswith(b"BM") and len(data) >= 26:
        size = struct.unpack_from("<II", data, 18)
    else:
        size = _webp_canvas(data)
    return None if size is None else size[0] * size[1]


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Of the first frame header (SOF0 to SOF15) among the first segments."""
    place = 2
    for _ in range(_JPEG_SEGMENTS):
        if place + 9 > len(data) or data[place] != 0xFF:
            return None
        kind = data[place + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return None
