"""Encoded bytes and npy arrays: limits first, and never another error than ours."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import animated, encode, npy, png_bomb, webp_bomb
from PIL import Image
from tiny_bundle import id_images

from service.arrays import parse_npy
from service.bundle import ImageInput
from service.decoding import FORMATS, ImageLimits, decode_image, image_to_pixels
from service.errors import (
    ArrayInvalid,
    ImageAnimated,
    ImageTooLarge,
    ImageTooManyPixels,
    ImageUnreadable,
    NoInputs,
    RequestRejected,
    ServiceError,
    TooManyInputs,
)

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=10_000)
SPEC = ImageInput(height=8, width=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
PHOTO = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
ENCODED = {name: encode(PHOTO, name) for name in FORMATS}
ARRAY = npy(id_images(3, 1))


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_is_decoded(image_format: str) -> None:
    image = decode_image(ENCODED[image_format], LIMITS)
    assert image.size == (30, 40)
    assert image_to_pixels(image, SPEC).shape == (8, 8, 3)


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_cut_is_refused(image_format: str) -> None:
    data = ENCODED[image_format]
    for length in range(0, int(len(data) * 0.97), max(1, len(data) // 40)):
        with pytest.raises(ImageUnreadable):
            decode_image(data[:length], LIMITS)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_cut_of_a_few_bytes_is_refused(image_format: str) -> None:
    """A PNG without the end of IEND, a JPEG without EOI: the rest may be missing too."""
    data = ENCODED[image_format]
    for missing in range(1, 30):
        with pytest.raises(ImageUnreadable):
            decode_image(data[:-missing], LIMITS)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_bytes_behind_the_end_do_no_harm(image_format: str) -> None:
    data = ENCODED[image_format] + b"\n" + bytes(100)
    assert decode_image(data, LIMITS).size == (30, 40)


@pytest.mark.parametrize("bomb", [png_bomb(50_000, 50_000), png_bomb(101, 100), webp_bomb()])
def test_pixels_are_limited_before_they_are_allocated(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooManyPixels):
            decode_image(bomb, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_webp_sizes_are_read_from_all_three_kinds_of_header() -> None:
    for options in ({"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}):
        data = encode(np.zeros((110, 100, 3), np.uint8), "WEBP", **options)
        with pytest.raises(ImageTooManyPixels, match="100 x 110"):
            decode_image(data, LIMITS)


def test_bytes_are_limited() -> None:
    with pytest.raises(ImageTooLarge):
        decode_image(bytes(100_001), LIMITS)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused(image_format: str) -> None:
    with pytest.raises(ImageAnimated):
        decode_image(animated(image_format), LIMITS)


def test_formats_outside_the_list_are_refused() -> None:
    for image_format in ("TIFF", "PPM", "ICO", "TGA", "PCX"):
        with pytest.raises(ImageUnreadable, match="none of PNG"):
            decode_image(encode(PHOTO, image_format), LIMITS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_model_pixels(mode: str, channels: int) -> None:
    spec = ImageInput(
        height=8, width=8, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels
    )  # type: ignore[arg-type]
    pixels = image_to_pixels(Image.new(mode, (20, 10)), spec)
    assert pixels.shape == (8, 8, channels)
    assert pixels.dtype == np.uint8


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_mutated_bytes_raise_nothing_else(data: st.DataObject) -> None:
    mutated = bytearray(ENCODED[data.draw(st.sampled_from(FORMATS))])
    for _ in range(data.draw(st.integers(1, 6))):
        # headers are where decoders break
        position = data.draw(st.integers(0, 60) | st.integers(0, len(mutated) - 1))
        mutated[position] = data.draw(st.integers(0, 255))
    try:
        pixels = image_to_pixels(decode_image(bytes(mutated), LIMITS), SPEC)
    except ServiceError:
        return
    assert pixels.shape == (8, 8, 3)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_mutated_arrays_raise_nothing_else(data: st.DataObject) -> None:
    mutated = bytearray(ARRAY)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    try:
        array = parse_npy(bytes(mutated), max_inputs=10, max_pixels=1000)
    except RequestRejected:
        return
    assert array.dtype == np.uint8
    assert array.ndim == 4


@given(body=st.binary(max_size=300))
def test_any_bytes_as_an_array_raise_nothing_else(body: bytes) -> None:
    with pytest.raises(RequestRejected):
        parse_npy(b"\x93NUMPY" + body, max_inputs=10, max_pixels=1000)


def test_arrays_keep_their_values() -> None:
    rows = id_images(3, 1)
    for array in (rows, np.asfortranarray(rows), rows[:, :, :, 0]):
        read = parse_npy(npy(array), max_inputs=3, max_pixels=64)
        np.testing.assert_array_equal(read, rows)


@pytest.mark.parametrize("last", [1, 3, 4])
def test_one_image_is_not_taken_for_a_batch(last: int) -> None:
    """(32, 32, 3) is a colour image more often than 32 images of 32 x 3."""
    body = npy(np.zeros((32, 32, last), np.uint8))
    with pytest.raises(ArrayInvalid, match="leading axis"):
        parse_npy(body, max_inputs=32, max_pixels=10_000)


def test_array_limits() -> None:
    with pytest.raises(TooManyInputs):
        parse_npy(ARRAY, max_inputs=2, max_pixels=64)
    with pytest.raises(ArrayInvalid, match="pixels each"):
        parse_npy(ARRAY, max_inputs=3, max_pixels=63)
    with pytest.raises(NoInputs):
        parse_npy(npy(id_images(3, 1)[:0]), max_inputs=3, max_pixels=64)


def test_a_huge_claim_allocates_nothing() -> None:
    claim = ARRAY.replace(b"(3, 8, 8, 1), ", b"(3,9999,9999,1)")[: len(ARRAY)]
    tracemalloc.start()
    try:
        with pytest.raises(ArrayInvalid):
            parse_npy(claim, max_inputs=3, max_pixels=10**9)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
