"""Where finished partitions wait for the last one: `OUT.parts/`, then all of them in `OUT`.

Every file is written beside its place and renamed into it, so that whenever a run is killed, what
stands there is whole.  `settings` say what the scores were made with and of; another run's are
never mixed in.
"""

import json
import os
import shutil
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.bulk.arrow import Schema, Table, from_bytes, pq
from service.bulk.errors import OutputTaken
from service.bulk.partitions import Partition

_KEY = b"oodscore"
_MANIFEST = "manifest.json"


class Store:
    """The output of one run, which may be a run that goes on."""

    def __init__(self, out: Path, settings: dict[str, Any], schema: Schema) -> None:
        self.out = out
        self._parts = out.with_name(out.name + ".parts")
        self._settings = settings
        self._schema = schema.with_metadata({_KEY: json.dumps(settings).encode()})

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do.  Raises OutputTaken."""
        if not self.out.exists():
            return False
        self._check(self._settings_of_out(), self.out)
        return True

    @contextmanager
    def opened(self, *, restart: bool) -> Generator[None]:
        """Alone with the parts.  `restart`: away with what is there of other settings.

        Raises OutputTaken.
        """
        if restart:
            self._forget()
        self._parts.mkdir(parents=True, exist_ok=True)
        with (self._parts / "lock").open("w") as lock:
            _lock(lock.fileno(), self._parts)
            manifest = self._parts / _MANIFEST
            if manifest.exists():
                self._check(json.loads(manifest.read_text(encoding="utf-8")), self._parts)
            else:
                text = json.dumps(self._settings, indent=1) + "\n"
                with _replacing(manifest) as beside:
                    beside.write_text(text, encoding="utf-8")
            yield

    def has(self, partition: Partition) -> bool:
        part = self._part(partition.number)
        return part.exists() and pq.read_metadata(part).num_rows == partition.count

    def put(self, partition: Partition, data: bytes) -> Table:
        """The scores of a partition, as its worker sent them."""
        table = from_bytes(data).replace_schema_metadata(self._schema.metadata)
        if table.num_rows != partition.count:
            raise ValueError(f"{table.num_rows} rows for {partition.count} inputs")
        with _replacing(self._part(partition.number)) as beside:
            pq.write_table(table, beside)
        return table

    def get(self, partition: Partition) -> Table:
        return pq.read_table(self._part(partition.number))

    def finish(self, partitions: Sequence[Partition]) -> None:
        """All partitions into one file, in order; the parts go."""
        with (
            _replacing(self.out) as beside,
            pq.ParquetWriter(beside, self._schema) as writer,
        ):
            for partition in partitions:
                writer.write_table(self.get(partition).cast(self._schema))
        self.clean()

    def rows(self) -> Iterator[Table]:
        """Of the finished output, a few at a time, with the column `decision` alone."""
        with pq.ParquetFile(self.out) as source:
            yield from source.iter_batches(columns=["decision"])

    def clean(self) -> None:
        shutil.rmtree(self._parts, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self._parts / f"part-{number:06d}.parquet"

    def _forget(self) -> None:
        if self.out.exists():
            self._settings_of_out()  # never a file that is not ours
            self.out.unlink()
        if (self._parts / _MANIFEST).exists():
            self.clean()

    def _settings_of_out(self) -> dict[str, Any]:
        try:
            return json.loads(pq.read_schema(self.out).metadata[_KEY])
        except (OSError, KeyError, TypeError, ValueError) as exc:
            raise OutputTaken(
                f"{self.out} exists and was not made by oodscore score; give another --out"
            ) from exc

    def _check(self, found: dict[str, Any], where: Path) -> None:
        differing = sorted(
            name
            for name in found.keys() | self._settings.keys()
            if found.get(name) != self._settings.get(name)
        )
        if differing:
            told = "; ".join(
                f"{name} was {_told(found.get(name))}, is {_told(self._settings.get(name))}"
                for name in differing
            )
            raise OutputTaken(
                f"{where} holds scores of something else: {told}.  Give another --out, or "
                "--restart to throw them away"
            )


def _told(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


@contextmanager
def _replacing(target: Path) -> Generator[Path]:
    beside = target.with_name(f".{target.name}.tmp")
    yield beside
    with beside.open("rb") as stream:
        os.fsync(stream.fileno())
    beside.replace(target)


def _lock(descriptor: int, folder: Path) -> None:
    """Held until the file is closed, or its process ends.  Raises OutputTaken."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        raise OutputTaken(f"{folder} is being written by another run; wait for it") from exc
