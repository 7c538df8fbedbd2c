"""Encoded images for requests, good and broken."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tiny_bundle import id_images, ood_images


def encode(pixels: NDArray[np.uint8], image_format: str = "PNG", **options: object) -> bytes:
    """uint8 (H, W, C) -> encoded bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(
        buffer, image_format, **options
    )
    return buffer.getvalue()


def npy(array: NDArray[np.generic], **options: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def id_png(seed: int = 50) -> bytes:
    return encode(id_images(1, seed)[0])


def ood_png(seed: int = 50) -> bytes:
    return encode(ood_images(1, seed)[0])


def animated(image_format: str) -> bytes:
    frames = [Image.new("L", (8, 8), level) for level in (0, 120, 240)]
    buffer = io.BytesIO()
    frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:], duration=50)
    return buffer.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    """A valid PNG header of that size over almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def webp_bomb() -> bytes:
    """The header of a 16384 x 16384 WebP canvas."""
    size = (16384 - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + size
    return b"RIFF" + struct.pack("<I", len(body)) + body
