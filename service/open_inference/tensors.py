"""A tensor of the wire -> inputs.  Sizes are checked before anything of that size is made."""

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.bundle import Modality
from service.errors import (
    Base64Invalid,
    NoInputs,
    TensorInvalid,
    TextUnreadable,
    TooManyInputs,
    UnknownTensor,
)
from service.inputs import BadInput, EncodedImage, Input, PixelImage, text_input
from service.open_inference.schemas import InputTensor
from service.request_bodies import BodyLimits

PIXELS, IMAGES, TEXTS = "pixels", "images", "texts"
INPUT_NAMES: dict[Modality, tuple[str, ...]] = {"image": (PIXELS, IMAGES), "text": (TEXTS,)}
DATATYPES = {PIXELS: "UINT8", IMAGES: "BYTES", TEXTS: "BYTES"}
_LENGTH_BYTES = 4


def to_inputs(
    tensor: InputTensor, binary: memoryview | None, modality: Modality, limits: BodyLimits
) -> list[Input]:
    """`binary`: its bytes where they stood behind the JSON.  One input a row.

    Raises UnknownTensor, TensorInvalid, NoInputs, TooManyInputs.
    """
    if tensor.name not in INPUT_NAMES[modality]:
        raise UnknownTensor("input", tensor.name, INPUT_NAMES[modality])
    if tensor.datatype != DATATYPES[tensor.name]:
        raise _invalid(tensor, f"is {tensor.datatype}; send {DATATYPES[tensor.name]}")
    if (binary is None) == (tensor.data is None):
        raise _invalid(tensor, "needs either data or binary_data_size")
    if tensor.name == PIXELS:
        return _pixel_inputs(tensor, binary, limits)
    count = _count(tensor, limits)
    if binary is None:
        elements = list(_flat(tensor, tensor.data, len(tensor.shape)))
        if len(elements) != count:
            raise _invalid(tensor, f"has shape {tensor.shape}, but {len(elements)} elements")
        return [_from_json(tensor, element, limits) for element in elements]
    return [_from_bytes(tensor.name, data, limits) for data in _split(tensor, binary, count)]


def raw_input(body: bytes, modality: Modality, limits: BodyLimits) -> Input:
    """A body that is one element and nothing else."""
    return _from_bytes(IMAGES if modality == "image" else TEXTS, body, limits)


def _pixel_inputs(
    tensor: InputTensor, binary: memoryview | None, limits: BodyLimits
) -> list[Input]:
    shape = tensor.shape
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise _invalid(tensor, f"has shape {shape}; send [N, height, width, channels], 1 or 3")
    count, height, width, _ = shape
    if count == 0:
        raise NoInputs
    if count > limits.max_npy_inputs:
        raise TooManyInputs(count, limits.max_npy_inputs)
    if not 0 < height * width <= limits.max_pixels:
        raise _invalid(
            tensor, f"has images of {height} x {width}; send 1 to {limits.max_pixels} pixels each"
        )
    wanted = math.prod(shape)
    if binary is None:
        flat = _json_pixels(tensor)
        if flat.size != wanted:
            raise _invalid(tensor, f"has shape {shape}, but {flat.size} elements")
    else:
        if len(binary) != wanted:
            raise _invalid(tensor, f"has shape {shape}, but {len(binary)} bytes")
        flat = np.frombuffer(binary, np.uint8)
    return [PixelImage(row) for row in flat.reshape(shape)]


def _json_pixels(tensor: InputTensor) -> NDArray[np.uint8]:
    data: object = tensor.data
    if not isinstance(data, list):
        raise _invalid(tensor, "has data that is no list")
    try:
        values: NDArray[Any] = np.array(cast(list[Any], data))
    except (ValueError, OverflowError) as exc:
        raise _invalid(tensor, "has data of no shape at all") from exc
    nested = values.shape not in ((values.size,), tuple(tensor.shape))
    if values.dtype.kind not in "iu" or nested or values.min() < 0 or values.max() > 255:
        raise _invalid(tensor, "has data other than whole numbers from 0 to 255, flat or in shape")
    return values.astype(np.uint8).ravel()


def _count(tensor: InputTensor, limits: BodyLimits) -> int:
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
        raise _invalid(tensor, f"has shape {tensor.shape}; send [N] or [N, 1]")
    count = tensor.shape[0]
    if count == 0:
        raise NoInputs
    if count > limits.max_inputs:
        raise TooManyInputs(count, limits.max_inputs)
    return count


def _flat(tensor: InputTensor, data: Any, depth: int) -> Iterable[Any]:
    if not isinstance(data, list):
        yield data
    elif depth == 0:
        raise _invalid(tensor, "is nested deeper than its shape")
    else:
        for element in cast(list[Any], data):
            yield from _flat(tensor, element, depth - 1)


def _from_json(tensor: InputTensor, element: Any, limits: BodyLimits) -> Input:
    """A text as it is; an image in base64, since JSON holds no bytes."""
    if not isinstance(element, str):
        raise _invalid(tensor, "has elements that are no strings")
    if tensor.name == TEXTS:
        return text_input(element, limits.max_text_characters)
    try:
        return EncodedImage(base64.b64decode(element, validate=True))
    except (binascii.Error, ValueError):
        return BadInput(Base64Invalid(), "image")


def _from_bytes(name: str, data: bytes, limits: BodyLimits) -> Input:
    if name == IMAGES:
        return EncodedImage(data)
    try:
        return text_input(data.decode("utf-8"), limits.max_text_characters)
    except UnicodeDecodeError as exc:
        problem = f"the text is not UTF-8: {exc.reason} at byte {exc.start}"
        return BadInput(TextUnreadable(problem), "text")


def _split(tensor: InputTensor, binary: memoryview, count: int) -> Sequence[bytes]:
    """Elements, each behind its length: four bytes, the lowest first."""
    elements: list[bytes] = []
    place = 0
    for _ in range(count):
        if place + _LENGTH_BYTES > len(binary):
            raise _invalid(tensor, f"ends after {len(elements)} of {count} elements")
        (length,) = struct.unpack_from("<I", binary, place)
        place += _LENGTH_BYTES
        if place + length > len(binary):
            raise _invalid(tensor, f"has an element {len(elements)} that is cut")
        elements.append(bytes(binary[place : place + length]))
        place += length
    if place != len(binary):
        raise _invalid(tensor, f"goes on for {len(binary) - place} bytes behind its last element")
    return elements


def _invalid(tensor: InputTensor, problem: str) -> TensorInvalid:
    return TensorInvalid(f"input {tensor.name!r} {problem}")
