"""The npy body: a uint8 array (N, H, W, C) or (N, H, W), checked from its header alone.

(N, H, W) with W 1, 3 or 4 is refused: it may as well be one image (H, W, C).
"""

import io
import math
from collections.abc import Callable

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from service.bundle.npy_headers import ONE_AT_A_TIME
from service.errors import ArrayInvalid, NoInputs, TooManyInputs

_Header = tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]
_READ_HEADER: dict[tuple[int, int], Callable[..., _Header]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}
_MAX_HEADER_BYTES = 1024
_LOOKS_LIKE_CHANNELS = (1, 3, 4)


def parse_npy(body: bytes, max_inputs: int, max_pixels: int) -> NDArray[np.uint8]:
    """npy bytes -> uint8 (N, H, W, C), C 1 or 3, sharing the body's memory.

    Raises ArrayInvalid, NoInputs, TooManyInputs.  Object arrays are never unpickled.
    """
    stream = io.BytesIO(body)
    shape, fortran_order, dtype = _read_header(stream)
    if dtype != np.uint8:
        raise ArrayInvalid(f"the array is {dtype}; send uint8 pixels, 0 to 255")
    if len(shape) == 3:
        if shape[2] in _LOOKS_LIKE_CHANNELS:
            raise ArrayInvalid(
                f"the array has shape {shape}, which may be one image (H, W, C) or a batch "
                "(N, H, W): send (N, H, W, C), adding a leading axis to a single image "
                "(array[None]) or a last one to a grey batch (array[..., None])"
            )
        shape = (*shape, 1)
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise ArrayInvalid(
            f"the array has shape {shape}; send (N, H, W, C) with 1 or 3 channels, or (N, H, W)"
        )
    count, height, width, _ = shape
    if count == 0:
        raise NoInputs
    if count > max_inputs:
        raise TooManyInputs(count, max_inputs)
    if not 0 < height * width <= max_pixels:
        raise ArrayInvalid(f"images of {height} x {width}: send 1 to {max_pixels} pixels each")
    if math.prod(shape) != len(body) - stream.tell():
        raise ArrayInvalid(
            f"the header announces {math.prod(shape)} bytes of pixels, "
            f"the body holds {len(body) - stream.tell()}"
        )
    flat = np.frombuffer(body, dtype=np.uint8, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _read_header(stream: io.BytesIO) -> _Header:
    try:
        version = npy.read_magic(stream)
        if version not in _READ_HEADER:
            raise ArrayInvalid(f"npy version {version} is not read; numpy.save writes (1, 0)")
        with ONE_AT_A_TIME:
            shape, fortran_order, dtype = _READ_HEADER[version](
                stream, max_header_size=_MAX_HEADER_BYTES
            )
    except ArrayInvalid:
        raise
    except Exception as exc:
        # numpy parses the header with ast.literal_eval: ValueError, SyntaxError, TypeError, ...
        raise ArrayInvalid(f"the body has no readable npy header: {exc}") from exc
    # True and False are whole numbers to Python, and sizes to nobody
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise ArrayInvalid(f"the array has shape {shape}; sizes are whole numbers from 0 on")
    return shape, fortran_order, dtype
