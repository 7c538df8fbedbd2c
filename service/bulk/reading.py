"""A partition -> its inputs as tables of a few: one row an input, whatever became of it."""

import base64
import binascii
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from service.bulk.arrow import Table, pa, pq
from service.bulk.errors import InputsUnusable
from service.bulk.job import Job
from service.bulk.partitions import Kind, Partition
from service.bulk.records import csv_records, json_records

INPUTS = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.string()),
        ("row", pa.int64()),  # in its file; null where the file is the input
        ("image", pa.binary()),  # PNG, JPEG, ...
        ("pixels", pa.binary()),  # npy of one image (1, H, W, C)
        ("text", pa.string()),
        ("problem_code", pa.string()),  # why there is none of the three
        ("problem_detail", pa.string()),
    ]
)
_ROWS_AT_ONCE = 64
_BYTES_AT_ONCE = 32 * 1024 * 1024
FILE_UNREADABLE = "file_unreadable"
RECORD_UNREADABLE = "record_unreadable"


@dataclass
class _Row:
    file: str
    row: int | None = None
    image: bytes | None = None
    pixels: bytes | None = None
    text: str | None = None
    problem: tuple[str, str] | None = None

    @property
    def size(self) -> int:
        return len(self.image or b"") + len(self.pixels or b"") + len(self.text or "")


def read_partition(job: Job, partition: Partition) -> Iterator[Table]:
    """Tables of INPUTS, in order; together exactly `partition.count` rows.

    Raises InputsUnusable where a file changed since it was counted.
    """
    rows: list[_Row] = []
    size = done = 0
    for row in _READERS[partition.kind](job, partition):
        rows.append(row)
        size += row.size
        if len(rows) == _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield _table(rows, partition.start + done)
            done, size = done + len(rows), 0
            rows = []
    if rows:
        yield _table(rows, partition.start + done)
    if (done := done + len(rows)) != partition.count:
        raise InputsUnusable(
            f"{partition.files[0]}: changed while it was scored; there are {done} inputs where "
            f"{partition.count} were counted"
        )


def _table(rows: list[_Row], start: int) -> Table:
    columns: dict[str, list[Any]] = {
        "index": list(range(start, start + len(rows))),
        "file": [os.fsencode(row.file).decode(errors="backslashreplace") for row in rows],
        "row": [row.row for row in rows],
        "image": [row.image for row in rows],
        "pixels": [row.pixels for row in rows],
        "text": [_unicode(row) for row in rows],
        "problem_code": [row.problem and row.problem[0] for row in rows],
        "problem_detail": [row.problem and row.problem[1] for row in rows],
    }
    return pa.table(columns, schema=INPUTS)


def _unicode(row: _Row) -> str | None:
    """Half a surrogate pair, or a byte that is no UTF-8, is no text."""
    try:
        if row.text is not None:
            row.text.encode()
    except UnicodeEncodeError as exc:
        row.problem = "text_unreadable", f"the text is no Unicode ({exc.reason})"
        return None
    return row.text


def _image_row(job: Job, file: str, named: str, row: int | None = None) -> _Row:
    """`named`: how the answer calls it.  Of a file beyond the limit enough is read to refuse it."""
    try:
        with job.path(file).open("rb") as stream:
            return _Row(named, row, image=stream.read(job.limits.max_image_bytes + 1))
    except (OSError, ValueError) as exc:
        return _unreadable(named, row, exc)


def _unreadable(file: str, row: int | None, exc: Exception) -> _Row:
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return _Row(file, row, problem=(FILE_UNREADABLE, f"the file cannot be read: {why}"))


def _images(job: Job, partition: Partition) -> Iterator[_Row]:
    return (_image_row(job, file, file) for file in partition.files)


def _texts(job: Job, partition: Partition) -> Iterator[_Row]:
    """One text a file, without its last line end."""
    for file in partition.files:
        try:
            text = job.path(file).read_text(encoding="utf-8-sig", errors="surrogateescape")
        except (OSError, ValueError) as exc:
            yield _unreadable(file, None, exc)
        else:
            yield _Row(file, text=text.removesuffix("\n"))


def _npy(job: Job, partition: Partition) -> Iterator[_Row]:
    (file,) = partition.files
    array = np.load(job.path(file), mmap_mode="r", allow_pickle=False)
    images = array if array.ndim == 4 else array[..., None]
    for row in range(partition.begin, min(partition.end, len(images))):
        buffer = io.BytesIO()
        np.save(buffer, images[row : row + 1], allow_pickle=False)
        yield _Row(file, row, pixels=buffer.getvalue())


def _json_lines(job: Job, partition: Partition) -> Iterator[_Row]:
    for place, (_, value) in enumerate(json_records(_slice(job, partition))):
        if isinstance(value, dict):
            value = cast(dict[str, Any], value).get(partition.column)
        yield _cell(job, partition, partition.row + place, value)


def _csv(job: Job, partition: Partition) -> Iterator[_Row]:
    (file,) = partition.files
    with job.path(file).open("rb") as lines:
        column = cast(list[str], next(csv_records(lines)).value).index(partition.column)
    for place, (_, cells) in enumerate(csv_records(_slice(job, partition))):
        if isinstance(cells, list):
            row = cast(list[str], cells)
            cells = row[column] if column < len(row) else None
        yield _cell(job, partition, partition.row + place, cells)


def _parquet(job: Job, partition: Partition) -> Iterator[_Row]:
    """Only the row groups that hold some of the rows are read."""
    (file,) = partition.files
    column = partition.column
    with pq.ParquetFile(job.path(file)) as source:
        first, groups, before = 0, list[int](), 0
        for group in range(source.metadata.num_row_groups):
            rows = source.metadata.row_group(group).num_rows
            if first < partition.end and first + rows > partition.begin:
                before = first if not groups else before
                groups.append(group)
            first += rows
        number = before
        top = column.partition(".")[0]
        for batch in source.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[top]):
            inside = batch.column(0)
            for place in range(len(inside)):
                if partition.begin <= number < partition.end:
                    yield _cell(job, partition, number, inside[place].as_py())
                number += 1
            if number >= partition.end:
                return


def _slice(job: Job, partition: Partition) -> io.BytesIO:
    with job.path(partition.files[0]).open("rb") as stream:
        stream.seek(partition.begin)
        return io.BytesIO(stream.read(partition.end - partition.begin))


def _cell(job: Job, partition: Partition, row: int, value: Any) -> _Row:
    """A text; or an image: its bytes, the path of its file, or {"bytes": ..., "path": ...}."""
    (file,) = partition.files
    if isinstance(value, Exception):
        problem = (RECORD_UNREADABLE, f"the record cannot be read ({value})")
        return _Row(file, row, problem=problem)
    if job.modality == "text":
        if isinstance(value, str):
            return _Row(file, row, text=value)
        return _no_value(file, row, partition.column, value, "text")
    if isinstance(value, dict):
        inside = cast(Mapping[str, Any], value)
        value = inside.get("bytes") or inside.get("path")
    if isinstance(value, bytes):
        return _Row(file, row, image=value)
    if not isinstance(value, str) or not value:
        return _no_value(file, row, partition.column, value, "image")
    if value.startswith("data:"):
        return _data_url(file, row, value)
    return _image_row(job, str(Path(file).parent / value), file, row)


def _data_url(file: str, row: int, url: str) -> _Row:
    """data:image/png;base64,..."""
    try:
        return _Row(file, row, image=base64.b64decode(url.partition(",")[2], validate=True))
    except (binascii.Error, ValueError):
        return _Row(file, row, problem=("base64_invalid", "the data URL is not valid base64"))


def _no_value(file: str, row: int, column: str, value: Any, wanted: str) -> _Row:
    kind = "nothing" if value is None or value == "" else type(value).__name__
    return _Row(file, row, problem=(RECORD_UNREADABLE, f"{column} holds {kind}, no {wanted}"))


_READERS: dict[Kind, Callable[[Job, Partition], Iterator[_Row]]] = {
    "image": _images,
    "text": _texts,
    "npy": _npy,
    "jsonl": _json_lines,
    "csv": _csv,
    "parquet": _parquet,
}
