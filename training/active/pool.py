"""The pool of a user: images in a folder or a table, texts in a file; each known by its content.

A file that was moved or renamed is the same input, and one that lies there twice is one input.
What cannot be read is left out and named, and never stops the others.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import ImageInput, TextEncoder, TextUnusable, to_model_pixels
from training.data import DataError, DataUnavailable
from training.data.text_files import opened_text
from training.data.text_sources import read_csv, read_jsonl, read_text_folder

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_CAPTURES = "captures.jsonl"  # in an export of captured inputs
_ID_DIGITS = 32


@dataclass(frozen=True)
class PoolItem:
    """`id`: of the content; `name`: what a person knows it by.  Either `path` or `text`."""

    id: str
    name: str
    path: Path | None = None
    text: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """An input that is left out, and why."""

    name: str
    reason: str


Encode = Callable[[PoolItem], NDArray[Any]]


class NotReadable(Exception):
    """One input that no network input can be made of."""


def read_image_pool(path: Path, beside: Path) -> tuple[list[PoolItem], list[Unreadable]]:
    """A folder with images at any depth, as an export of captures is, or a .csv or .jsonl with a
    column `image`.  What lies in the folder `beside`, our own, is none of the pool."""
    if path.is_dir():
        own = beside.resolve()
        files = [
            file
            for file in sorted(path.rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.resolve().is_relative_to(own)
        ]
        named = [(file, str(file.relative_to(path))) for file in files]
    else:
        listed = list(_listed_images(path))
        named = [(path.parent / name, name) for name in listed]
    if not named:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataUnavailable(f"pool: {path} holds no image ({known})")
    items: dict[str, PoolItem] = {}
    bad: list[Unreadable] = []
    for file, name in named:
        try:
            content = file.read_bytes()
        except OSError as exc:
            bad.append(Unreadable(name, exc.strerror or "cannot be read"))
            continue
        item = PoolItem(content_id(content), name, path=file)
        items.setdefault(item.id, item)
    return list(items.values()), bad


def read_text_pool(path: Path) -> tuple[list[PoolItem], list[Unreadable]]:
    """A .jsonl or .csv with `text`, an export of captures, or a folder of .txt files."""
    file = path / _CAPTURES if (path / _CAPTURES).is_file() else path
    kind = _suffix(file)
    if kind in (".jsonl", ".csv"):
        texts = (read_jsonl if kind == ".jsonl" else read_csv)("pool", path=str(file)).texts
    else:
        texts = read_text_folder("pool", path=str(file)).texts
    items: dict[str, PoolItem] = {}
    for number, text in enumerate(texts, start=1):
        item = PoolItem(
            content_id(text.encode("utf-8", "surrogatepass")), f"text {number}", text=text
        )
        items.setdefault(item.id, item)
    return list(items.values()), []


def content_id(content: bytes) -> str:
    """The id of an input with this content."""
    return hashlib.sha256(content).hexdigest()[:_ID_DIGITS]


def image_encoder(spec: ImageInput) -> Encode:
    """item -> uint8 (H, W, C), as the service would decode it; NotReadable."""

    def encode(item: PoolItem) -> NDArray[Any]:
        assert item.path is not None  # noqa: S101  (an image pool's items have one)
        try:
            with Image.open(io.BytesIO(item.path.read_bytes())) as image:
                return to_model_pixels(image, spec)
        except Exception as exc:  # Pillow raises OSError, SyntaxError, ValueError, struct.error ...
            raise NotReadable(f"is no readable image ({exc})") from exc

    return encode


def text_encoder(encoder: TextEncoder) -> Encode:
    """item -> token ids (L,); NotReadable."""

    def encode(item: PoolItem) -> NDArray[Any]:
        assert item.text is not None  # noqa: S101  (a text pool's items have one)
        try:
            return encoder.encode(item.text)
        except TextUnusable as exc:
            raise NotReadable(str(exc)) from exc

    return encode


def encoded(
    items: list[PoolItem], encode: Encode, batch: int
) -> Iterator[tuple[list[PoolItem], list[NDArray[Any]], list[Unreadable]]]:
    """Batches of what can be read, and beside each what cannot."""
    for start in range(0, len(items), batch):
        kept: list[PoolItem] = []
        rows: list[NDArray[Any]] = []
        bad: list[Unreadable] = []
        for item in items[start : start + batch]:
            try:
                row = encode(item)
            except NotReadable as exc:
                bad.append(Unreadable(item.name, str(exc)))
                continue
            kept.append(item)
            rows.append(row)
        yield kept, rows, bad


def _listed_images(table: Path) -> Iterator[str]:
    if not table.is_file():
        raise DataUnavailable(f"pool: no file or folder {table}")
    kind = _suffix(table)
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"pool: {table} is no folder, .csv or .jsonl")
    with opened_text("pool", table) as lines:
        rows: Iterator[Any] = iter(csv.DictReader(lines)) if kind == ".csv" else _objects(lines)
        for number, row in enumerate(rows, start=1):
            name = row.get("image") if isinstance(row, dict) else None
            if not isinstance(name, str) or not name:
                raise DataError(f"pool: {table}, entry {number}: has no image file in 'image'")
            yield name


def _objects(lines: Iterator[str]) -> Iterator[Any]:
    for line in lines:
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                yield None


def _suffix(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def stacked(rows: list[NDArray[Any]], pad_id: int | None) -> NDArray[Any]:
    """(N, ...) of rows of one shape; of texts, the shorter ones are padded."""
    if pad_id is None:
        return np.stack(rows)
    width = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=pad_id) for row in rows])
