"""What a person names as data -> the reader of it."""

from collections.abc import Mapping
from pathlib import Path

from training.config import SourceConfig
from training.data.input_set import DataUnavailable

_TABLES = {".csv": "csv", ".jsonl": "jsonl", ".npz": "npz"}


def source_of(given: str, columns: Mapping[str, str]) -> SourceConfig:
    """A folder, a file of a table, or module:name of a torch Dataset; `columns`: of a table, by
    what they hold.  ValueError where it is none of these, DataUnavailable where it is absent."""
    path = Path(given)
    if path.is_dir():
        return SourceConfig.model_validate({"source": "folder", "path": given})
    if path.is_file():
        bare = path.with_suffix("") if path.suffix.lower() == ".gz" else path
        kind = _TABLES.get(bare.suffix.lower())
        if kind is None:
            raise ValueError(
                f"{given}: choose a folder, a file of {', '.join(_TABLES)}, or module:name of a "
                "torch Dataset"
            )
        fields = dict(columns) if kind != "npz" else {}
        return SourceConfig.model_validate({"source": kind, "path": given, **fields})
    if ":" in given:
        return SourceConfig.model_validate({"source": "dataset", "dataset": given})
    raise DataUnavailable(f"{given}: there is no such folder or file")
