"""Which inputs a data set holds, in their order, cut into partitions.

What is counted here is what `reading` gives: one row an input, whether it can be read or not.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from service.bulk.arrow import pq
from service.bulk.errors import InputsUnusable
from service.bulk.records import Record, csv_records, json_records
from service.bundle import Modality

Kind = Literal["image", "text", "npy", "jsonl", "csv", "parquet"]

_KINDS: dict[str, Kind] = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".webp": "image", ".bmp": "image",
    ".gif": "image", ".txt": "text", ".npy": "npy", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".csv": "csv", ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_TABLES: frozenset[Kind] = frozenset({"jsonl", "csv", "parquet"})
_ALONE: dict[Modality, frozenset[Kind]] = {
    "image": frozenset({"image", "npy"}),
    "text": frozenset({"text"}),
}
_LOOKED_AT = 100  # lines, for one that says which columns there are
# columns looked for where none is named; strings under the last three name files of images
_COLUMNS = ("text", "image", "file", "path")


@dataclass(frozen=True)
class Partition:
    """`count` neighbours; the first of them is input number `start` of the data set."""

    number: int
    kind: Kind
    files: tuple[str, ...]  # one an input, or the one that holds them all
    start: int
    count: int
    column: str = ""  # of a table
    begin: int = 0  # rows of npy and parquet; bytes of jsonl and csv
    end: int = 0
    row: int = 0  # number of its first record in the file


@dataclass(frozen=True)
class DataSet:
    """`left_out`: suffixes of files in folders that are no inputs of this kind, and how many."""

    partitions: tuple[Partition, ...]
    fingerprint: str
    left_out: Counter[str] = field(default_factory=Counter[str])

    @property
    def count(self) -> int:
        return sum(partition.count for partition in self.partitions)

    @property
    def settings(self) -> dict[str, Any]:
        """What two runs have to share to be one."""
        rows = max((partition.count for partition in self.partitions), default=0)
        return {
            "inputs": self.count,
            "inputs_sha256": self.fingerprint,
            "partitions": len(self.partitions),
            "largest_partition": rows,
        }


def modality_of(paths: Sequence[Path], column: str | None) -> Modality:
    """What the inputs say they are, where no model was named.  Raises InputsUnusable."""
    found: set[Modality] = {
        _modality(kind, path, column) for path in paths for kind, path in _looked_at(path)
    }
    if len(found) > 1:
        raise InputsUnusable(
            "the inputs hold images and texts; name the model that shall answer, or score them "
            "one after the other into tables of their own"
        )
    if not found:
        raise InputsUnusable(_NOTHING)
    return found.pop()


def find_inputs(
    paths: Sequence[Path], modality: Modality, column: str | None, rows: int
) -> DataSet:
    """Files in the order given, those of a folder by name; partitions of at most `rows` inputs.

    Raises InputsUnusable.
    """
    left_out: Counter[str] = Counter()
    digest = hashlib.sha256(repr((modality, column)).encode())
    pieces: list[Partition] = []
    alone: list[str] = []
    alone_kind: Kind = "image" if modality == "image" else "text"

    def put_away() -> None:
        for start in range(0, len(alone), rows):
            files = tuple(alone[start : start + rows])
            pieces.append(Partition(0, alone_kind, files, 0, len(files)))
        alone.clear()

    for path in paths:
        for kind, file in _files_of(path, modality, left_out):
            _check_kind(kind, file, modality)
            status = file.stat() if file.exists() else None
            told = (os.fsencode(file), *((status.st_size, status.st_mtime_ns) if status else ()))
            digest.update(repr(told).encode())
            if kind in ("image", "text"):
                alone.append(str(file))
            else:
                put_away()
                pieces += _pieces_of(kind, file, modality, column, rows)
    put_away()
    if not pieces:
        raise InputsUnusable(_NOTHING)
    return DataSet(tuple(_numbered(pieces)), digest.hexdigest(), left_out)


_NOTHING = "nothing to score: no image, .txt, .npy, .jsonl, .csv or .parquet among the inputs"


def _numbered(pieces: Iterable[Partition]) -> Iterator[Partition]:
    start = 0
    for number, piece in enumerate(pieces):
        yield replace(piece, number=number, start=start)
        start += piece.count


def _kind_of(file: Path) -> Kind:
    """A named file of an unknown suffix is taken for an image, as `oodscore score` does."""
    return _KINDS.get(file.suffix.lower(), "image")


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, hidden ones left out, in one order everywhere."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _looked_at(path: Path) -> Iterator[tuple[Kind, Path]]:
    """Of a folder one file of the kind that it would be read for."""
    if not path.is_dir():
        yield _kind_of(path), path
        return
    first: dict[Kind, Path] = {}
    for file in _walk(path):
        kind = _KINDS.get(file.suffix.lower())
        if kind is not None:
            first.setdefault(kind, file)
    if "image" in first or "npy" in first:
        first = {kind: file for kind, file in first.items() if kind not in _TABLES}
    yield from first.items()


def _files_of(
    path: Path, modality: Modality, left_out: Counter[str]
) -> Iterator[tuple[Kind, Path]]:
    """Of a folder: images (or .txt files); tables where there are none of these."""
    if not path.is_dir():
        yield _kind_of(path), path
        return
    files = [(_KINDS.get(file.suffix.lower()), file) for file in _walk(path)]
    wanted: frozenset[Kind] = _ALONE[modality]
    if not any(kind in wanted for kind, _ in files):
        wanted = _TABLES
    for kind, file in files:
        if kind is not None and kind in wanted:
            yield kind, file
        else:
            left_out[file.suffix or file.name] += 1


def _modality(kind: Kind, file: Path, column: str | None) -> Modality:
    if kind in _TABLES:
        return "text" if _column_of(kind, file, column) not in _COLUMNS[1:] else "image"
    return "text" if kind == "text" else "image"


def _check_kind(kind: Kind, file: Path, modality: Modality) -> None:
    other = {"text": "image", "image": "text", "npy": "text"}.get(kind)
    if other == modality:
        raise InputsUnusable(f"{file}: is no {modality}, and the model reads nothing else")


def _column_of(kind: Kind, file: Path, column: str | None, modality: Modality | None = None) -> str:
    """The column that is named, else the first of the usual ones.  Raises InputsUnusable."""
    names = _columns(kind, file)
    usual = {"image": _COLUMNS[1:], "text": _COLUMNS[:1], None: _COLUMNS}[modality]
    for name in usual if column is None else (column,):
        if name in names:
            return name
    wanted = f"no column {column!r}" if column else f"none of the columns {', '.join(usual)}"
    raise InputsUnusable(f"{file}: has {wanted}; it has {', '.join(names)}: name one with --column")


def _columns(kind: Kind, file: Path) -> list[str]:
    try:
        if kind == "parquet":
            return cast(list[str], pq.read_schema(file).names)
        with file.open("rb") as lines:
            if kind == "csv":
                return cast(list[str], next(csv_records(lines), Record(0, [])).value)
            values = (record.value for record in islice(json_records(lines), _LOOKED_AT))
            first = next((value for value in values if not isinstance(value, Exception)), None)
    except (OSError, ValueError) as exc:
        raise InputsUnusable(f"{file}: cannot be read as {kind} ({exc})") from exc
    # a line may be the text itself
    return list(cast(dict[str, Any], first)) if isinstance(first, dict) else ["text"]


def _pieces_of(
    kind: Kind, file: Path, modality: Modality, column: str | None, rows: int
) -> list[Partition]:
    """A file of many inputs; start and number are given later.  Raises InputsUnusable."""
    if kind == "npy":
        count, name = _npy_rows(file), ""
    else:
        name = _column_of(kind, file, column, modality)
        if kind != "parquet":
            return list(_cut_records(kind, file, name, rows))
        count = cast(int, pq.read_metadata(file).num_rows)
    return [
        Partition(0, kind, (str(file),), 0, min(rows, count - begin), name, begin,
                  min(begin + rows, count), begin)
        for begin in range(0, count, rows)
    ]  # fmt: skip


def _npy_rows(file: Path) -> int:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise InputsUnusable(f"{file}: cannot be read as npy ({exc})") from exc
    if array.ndim not in (3, 4) or array.dtype != np.uint8:
        raise InputsUnusable(f"{file}: is {array.dtype} {array.shape}; uint8 (N, H, W, C) is read")
    return len(array)


def _cut_records(kind: Kind, file: Path, column: str, rows: int) -> Iterator[Partition]:
    """Bytes of at most `rows` records each."""
    with file.open("rb") as lines:
        records = csv_records(lines) if kind == "csv" else json_records(lines, parse=False)
        header = next(records).size if kind == "csv" else 0
        begin = position = header
        count = row = 0
        for size, _ in records:
            position += size
            count += 1
            if count == rows:
                yield Partition(0, kind, (str(file),), 0, count, column, begin, position, row)
                begin, row, count = position, row + count, 0
    if count:
        yield Partition(0, kind, (str(file),), 0, count, column, begin, position, row)
