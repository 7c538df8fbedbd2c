"""Images that a table lists: one path and one label a row, CSV or JSON lines."""

import csv
import json
from pathlib import Path
from typing import Any

from service.bundle import ImageInput
from training.data.image_set import ImageSet
from training.data.input_set import DataError, DataUnavailable
from training.data.raw_texts import RawTexts
from training.data.stored_images import read_image_files
from training.data.text_files import opened_text


def read_image_csv(
    name: str, spec: ImageInput, *, path: str, image: str = "image", label: str = "label"
) -> ImageSet:
    """A table whose first line names the columns; `image`: a file, relative to the table's folder;
    `label`: the name of a class, which may be empty."""
    with opened_text(name, path) as lines:
        try:
            rows = list(csv.DictReader(lines))
        except csv.Error as exc:
            raise DataError(f"{name}: {path}: is no table ({exc})") from exc
    return _of_rows(name, spec, Path(path), rows, image, label)


def read_image_jsonl(
    name: str, spec: ImageInput, *, path: str, image: str = "image", label: str = "label"
) -> ImageSet:
    """One JSON object a line; fields as the columns of `read_image_csv`."""
    rows: list[dict[str, Any]] = []
    with opened_text(name, path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as exc:
                raise DataError(f"{name}: {path}, line {number}: is not JSON ({exc})") from exc
            if not isinstance(row, dict):
                raise DataError(f"{name}: {path}, line {number}: is no JSON object")
            rows.append(row)
    return _of_rows(name, spec, Path(path), rows, image, label)


def _of_rows(
    name: str, spec: ImageInput, table: Path, rows: list[dict[str, Any]], image: str, label: str
) -> ImageSet:
    if not rows:
        raise DataUnavailable(f"{name}: {table} lists no image")
    files: list[Path] = []
    for number, row in enumerate(rows, start=1):
        given = row.get(image)
        if not isinstance(given, str) or not given:
            raise DataError(
                f"{name}: {table}, entry {number}: has no image file in {image!r}; it has "
                f"{sorted(map(str, row))}"
            )
        file = table.parent / given
        if not file.is_file():
            raise DataError(f"{name}: {table}, entry {number}: there is no file {file}")
        files.append(file)
    labels = [None if row.get(label) in (None, "") else str(row[label]) for row in rows]
    named = RawTexts.named(name, [str(file) for file in files], labels, table.name)
    return read_image_files(name, files, spec, named.labels, named.class_names, table.name)
