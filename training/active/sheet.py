"""What is asked, to look at: a contact sheet of images, a page of texts."""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_COLUMNS = 5
_SIDE, _LINE = 112, 13  # pixels of a thumbnail and of a line of text
_LONGEST_LABEL = 17


def draw_sheet(path: Path, images: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> None:
    """Images (H, W, C) in reading order, a caption of two lines below each."""
    columns = min(_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    width, height = _SIDE + 8, _SIDE + 2 * _LINE + 10
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = place % columns * width + 4, place // columns * height + 4
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
        scale = _SIDE / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
        sheet.paste(picture.resize(size, method), (left, top))
        pen.multiline_text((left, top + _SIDE + 1), caption, fill="black", spacing=1)
    sheet.save(path, optimize=True)


def caption(rank: int, label: str, id_probability: float) -> str:
    """Two lines below an image."""
    short = label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "."
    shown = short.encode("latin-1", "replace").decode("latin-1")
    return f"{rank}. {shown}\nP(ID) {id_probability:.2f}"


def write_text_sheet(path: Path, texts: Sequence[str], captions: Sequence[str]) -> None:
    """An HTML page, one text an entry."""
    items = "".join(
        f"<li><p>{html.escape(text)}</p><small>{html.escape(caption)}</small></li>\n"
        for text, caption in zip(texts, captions, strict=True)
    )
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>To label</title>\n"
        f"<h1>{len(texts)} texts to label</h1>\n<ol>\n{items}</ol>\n",
        encoding="utf-8",
    )
