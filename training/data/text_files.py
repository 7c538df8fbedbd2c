"""A file of text, opened so that whatever is wrong with it names the file."""

import gzip
import io
import zlib
from pathlib import Path
from typing import TextIO

from training.data.input_set import DataError, DataUnavailable


def opened_text(name: str, path: str | Path) -> TextIO:
    """UTF-8 with or without a mark at its start; gzip where the name ends in .gz.

    DataUnavailable where there is no file, DataError where it is not what it should be; both begin
    with `name`, the set's.
    """
    file = Path(path)
    if not file.is_file():
        raise DataUnavailable(f"{name}: no file {path}")
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise DataError(f"{name}: {path}: is no whole gzip file ({exc})") from exc
    try:
        return io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as exc:
        raise DataError(
            f"{name}: {path}: is not UTF-8 ({exc.reason} at byte {exc.start:,}); save it as UTF-8"
        ) from exc
