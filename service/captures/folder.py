"""The captures on disk: `<id>.<suffix>` holds an input, `<id>.json` says what it is.

The input is written before its record and goes after it, each by a rename: a reader never sees
half a capture.  What a crash leaves behind is cleared away when the service starts again.
Files are readable for their owner only.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from service.captures.record import SUFFIXES, CaptureRecord
from service.logs import fields

logger = logging.getLogger(__name__)

_RECORD = ".json"
_PART = ".part"
# a file of ours, and so ours to delete
_OURS = re.compile(r"([0-9a-f]{32})(\.[a-z]{3,4})(\.part)?")


class CaptureFolderUnusable(Exception):
    """The message names the folder, what is wrong with it, and the setting."""


class CaptureFolder:
    """To be shared by threads, as long as they write different captures."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the folder.  Raises CaptureFolderUnusable where it cannot be written to."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.path / f"{'0' * 32}.json{_PART}"
            _write(probe, b"")
            probe.unlink()
        except OSError as exc:
            raise CaptureFolderUnusable(
                f"{self.path}: cannot be written to ({exc.strerror}); captures need a folder of "
                "their own: set OODSCORE_CAPTURE_DIR to one, or leave it out"
            ) from exc

    def clear_rests(self) -> None:
        """Delete files of ours that are no whole capture.  Raises OSError."""
        whole = {name for record in self.records() for name in _names(record)}
        for file in self.path.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in whole:
                logger.warning("removed what is no whole capture", extra=fields(file=str(file)))
                file.unlink(missing_ok=True)

    def records(self) -> Iterator[CaptureRecord]:
        """Those whose input is there, in no order.  Raises OSError."""
        for file in self.path.glob(f"*{_RECORD}"):
            try:
                record = CaptureRecord.model_validate_json(file.read_bytes())
                whole = (
                    file.stem == record.id
                    and record.media_type in SUFFIXES
                    and self._input(record).stat().st_size == record.size_bytes
                )
            except (ValidationError, FileNotFoundError):
                continue
            if whole:
                yield record

    def write(self, record: CaptureRecord, data: bytes) -> None:
        """Raises OSError; nothing of it is left then."""
        try:
            _replace(self._input(record), data)
            _replace(self._record(record), record.model_dump_json().encode())
        except OSError:
            for name in _names(record):
                (self.path / name).unlink(missing_ok=True)
                (self.path / (name + _PART)).unlink(missing_ok=True)
            raise

    def read(self, record: CaptureRecord) -> bytes | None:
        """The input; None where it went meanwhile.  Raises OSError."""
        try:
            return self._input(record).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, record: CaptureRecord) -> None:
        """Raises OSError."""
        self._record(record).unlink(missing_ok=True)
        self._input(record).unlink(missing_ok=True)

    def _input(self, record: CaptureRecord) -> Path:
        return self.path / record.file_name

    def _record(self, record: CaptureRecord) -> Path:
        return self.path / (record.id + _RECORD)


def _names(record: CaptureRecord) -> tuple[str, str]:
    return record.file_name, record.id + _RECORD


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + _PART)
    _write(part, data)
    part.replace(path)


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(path, "wb", opener=lambda name, _: os.open(name, flags, 0o600)) as stream:
        stream.write(data)
