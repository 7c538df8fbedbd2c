"""The records of JSON lines and CSV, for those who count them and those who read them alike.

A file is cut at record ends only, so that what follows reads the same as in one go.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

# of a field; the module's own limit is 128 KB
csv.field_size_limit(2**31 - 1)


class Record(NamedTuple):
    """`value`: what stands there, an exception where it cannot be read."""

    size: int  # bytes, with those of empty lines before it
    value: Any


def json_records(lines: Iterable[bytes], *, parse: bool = True) -> Iterator[Record]:
    """A value a line; `parse` False: None."""
    size = 0
    for line in lines:
        size += len(line)
        if line.strip():
            yield Record(size, _json(line) if parse else None)
            size = 0


def csv_records(lines: Iterable[bytes]) -> Iterator[Record]:
    """A list of cells a record, which may span lines inside quotes."""
    size = 0

    def feed() -> Iterator[str]:
        nonlocal size
        for line in lines:
            size += len(line)
            yield line.decode("utf-8-sig", errors="surrogateescape")

    reader = csv.reader(feed())
    while True:
        value: Any
        try:
            value = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            value = exc  # the next call starts on the next line
        if value != []:
            yield Record(size, value)
            size = 0


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError) as exc:
        return exc
