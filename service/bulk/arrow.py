"""pyarrow, the optional extra `bulk`.  The only importer: the package ships no types."""

from typing import Any, cast

import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]

pa = cast(Any, pyarrow)
pq = cast(Any, pyarrow.parquet)
# a pyarrow.Table; the columns stand where one is made
Table = Any
Schema = Any


def to_bytes(table: Table) -> bytes:
    """As an Arrow stream, for the way from one process to another."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(data: bytes) -> Table:
    return pa.ipc.open_stream(data).read_all()
