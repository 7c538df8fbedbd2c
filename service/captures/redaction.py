"""Redaction: what happens to an input between the service and the disk.

A hook is any callable `CapturedInput -> CapturedInput | None`; None keeps nothing.  It runs in
the thread that writes captures, never in one that scores.
"""

import io
from collections.abc import Callable
from dataclasses import replace

from PIL import Image, ImageOps

from service.captures.record import SUFFIXES, TEXT, CapturedInput

Redaction = Callable[[CapturedInput], object]


class RedactionFailed(Exception):
    """The hook raised, or gave what cannot be kept.  The message holds nothing of the input."""


def keep_as_sent(item: CapturedInput) -> CapturedInput:
    """No redaction."""
    return item


def without_metadata(item: CapturedInput) -> CapturedInput:
    """A hook to name in OODSCORE_CAPTURE_REDACTION: images become PNG files that hold pixels and
    nothing else (no place, no camera, no comment), turned as their EXIF says; texts stay.
    """
    if item.media_type == TEXT:
        return item
    with Image.open(io.BytesIO(item.data)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
        elif upright.mode == "1":
            upright = upright.convert("L")
        elif upright.mode not in ("L", "RGB", "I") and not upright.mode.startswith("I;16"):
            upright = upright.convert("RGB")
        return replace(item, data=png_of(upright), media_type="image/png")


def redacted(item: CapturedInput, redaction: Redaction) -> CapturedInput | None:
    """Raises RedactionFailed."""
    try:
        result = redaction(item)
    except Exception as exc:
        # its message may quote the input
        raise RedactionFailed(f"the redaction hook raised {type(exc).__name__}") from None
    if result is None:
        return None
    if not isinstance(result, CapturedInput) or not result.data:
        raise RedactionFailed(
            f"the redaction hook gave {type(result).__name__}, not a CapturedInput with data or "
            "None"
        )
    if (result.media_type == TEXT) != (item.media_type == TEXT) or (
        result.media_type not in SUFFIXES
    ):
        raise RedactionFailed(f"the redaction hook made {item.media_type} {result.media_type}")
    # where it belongs and how OOD it was is not the hook's to say
    return replace(item, data=result.data, media_type=result.media_type)


def png_of(image: Image.Image) -> bytes:
    """Pixels only."""
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "PNG")
    return buffer.getvalue()
