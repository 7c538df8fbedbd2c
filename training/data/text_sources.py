"""Readers: files on disk -> RawTexts, with labels where the file has them.

Every reader raises DataUnavailable, saying how to get the data, where it is absent, and DataError
where it is not what it should be.  A name that ends in .gz is read as gzip.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from training.data.folders import input_files
from training.data.input_set import DataError, DataUnavailable
from training.data.raw_texts import RawTexts
from training.data.text_files import opened_text

_FASTA_SUFFIXES = (".fasta", ".fa", ".fna")
_LARGEST_FIELD = 2**31 - 1  # csv's own limit of 131,072 characters is for broken quotes


def read_jsonl(name: str, *, path: str, text: str = "text", label: str | None = None) -> RawTexts:
    """One JSON object a line; `text`, `label`: its fields.  Without `label`: "label" where there
    is one."""
    rows: list[tuple[int, dict[str, Any]]] = []
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
            rows.append((number, row))
    return _of_rows(name, path, rows, text, label)


def read_csv(
    name: str, *, path: str, text: str = "text", label: str | None = None, delimiter: str = ","
) -> RawTexts:
    """A table whose first line names the columns; `text`, `label` as of `read_jsonl`."""
    previous = csv.field_size_limit(_LARGEST_FIELD)
    try:
        with opened_text(name, path) as lines:
            table = csv.DictReader(lines, delimiter=delimiter, strict=True)
            rows = [(table.line_num, _whole(name, path, table, row)) for row in table]
    except csv.Error as exc:
        raise DataError(f"{name}: {path}: is no table ({exc})") from exc
    finally:
        csv.field_size_limit(previous)
    return _of_rows(name, path, rows, text, label)


def _whole(
    name: str, path: str, table: "csv.DictReader[str]", row: Mapping[Any, Any]
) -> dict[str, Any]:
    """The row, if it has as many fields as the table has columns."""
    if None in row or None in row.values():
        raise DataError(
            f"{name}: {path}, line {table.line_num}: has "
            f"{'more' if None in row else 'fewer'} fields than the {len(table.fieldnames or ())} "
            f'columns; put texts that hold {table.reader.dialect.delimiter!r} in "quotes"'
        )
    return dict(row)


def read_text_folder(name: str, *, path: str) -> RawTexts:
    """A folder of class sub-folders of .txt files, a text each; a file in no sub-folder has no
    label, and one that is hidden is no text."""
    root = Path(path)
    if not root.is_dir():
        raise DataUnavailable(f"{name}: no folder {path}")
    files = input_files(root, {".txt"})
    if not files:
        raise DataUnavailable(f"{name}: {path} holds no .txt file")
    texts: list[str] = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as exc:
            raise DataError(f"{name}: {file}: is not UTF-8 ({exc.reason})") from exc
    parts = [file.relative_to(root).parts for file in files]
    labels = [part[0] if len(part) > 1 else None for part in parts]
    return RawTexts.named(name, texts, labels, f"folder {root.name}")


def read_fasta(name: str, *, path: str, read_length: int | None = None) -> RawTexts:
    """A FASTA file, or a folder of them, each of which is then a class named as the file.

    `read_length`: cut every record into reads of so many symbols; what is left over is dropped.
    """
    if read_length is not None and read_length < 1:
        raise DataError(f"{name}: read_length is {read_length}; at least 1 is needed")
    root = Path(path)
    files = [root]
    if root.is_dir():
        files = sorted(file for file in root.iterdir() if _stem_of_fasta(file) is not None)
    if not files or not root.exists():
        raise DataUnavailable(f"{name}: no file or folder of FASTA files {path}")
    texts: list[str] = []
    labels: list[str | None] = []
    for file in files:
        records = list(_records(name, file))
        if read_length is not None:
            records = [
                record[start : start + read_length]
                for record in records
                for start in range(0, len(record) - read_length + 1, read_length)
            ]
        texts.extend(records)
        labels.extend([_stem_of_fasta(file) if root.is_dir() else None] * len(records))
    if not texts:
        least = "" if read_length is None else f" of {read_length} symbols or more"
        raise DataError(f"{name}: {path} holds no sequence{least}")
    return RawTexts.named(name, texts, labels, f"FASTA {root.name}")


def _of_rows(
    name: str, path: str, rows: Iterable[tuple[int, dict[str, Any]]], text: str, label: str | None
) -> RawTexts:
    texts: list[str] = []
    labels: list[str | None] = []
    for number, row in rows:
        value = row.get(text)
        if not isinstance(value, str):
            raise DataError(
                f"{name}: {path}, line {number}: has no text in {text!r}; it has {sorted(row)}"
            )
        if label is not None and label not in row:
            raise DataError(
                f"{name}: {path}, line {number}: has no {label!r}; it has {sorted(row)}"
            )
        given = row.get(label or "label")
        texts.append(value)
        labels.append(None if given in (None, "") else str(given))
    if not texts:
        raise DataUnavailable(f"{name}: {path} holds no text")
    return RawTexts.named(name, texts, labels, Path(path).name)


def _stem_of_fasta(file: Path) -> str | None:
    """The file's name without its endings; None if it is no FASTA file."""
    bare = file.with_suffix("") if file.suffix == ".gz" else file
    return bare.stem if bare.suffix.lower() in _FASTA_SUFFIXES else None


def _records(name: str, file: Path) -> Iterator[str]:
    """The sequences of one file, in order."""
    parts: list[str] = []
    started = False
    for line in opened_text(name, file):
        line = line.strip()
        if line.startswith(">"):
            if parts:
                yield "".join(parts)
            parts, started = [], True
        elif line and not started:
            raise DataError(f"{name}: {file}: a FASTA file starts with a line '>name'")
        elif line:
            parts.append(line)
    if parts:
        yield "".join(parts)
