"""Captures -> what oodscore-train reads: an ImageFolder, or JSONL for texts.

DIR/<predicted label>/<id>.<suffix> with DIR/captures.jsonl beside them for images, and
DIR/captures.jsonl alone, its fields `text` and `label` first, for texts.  Labels are the
predicted ones: whoever reviews moves a file to the right folder, or corrects the line.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from service.captures.record import CaptureRecord

LIST = "captures.jsonl"
_SAFE = " !#$&'()+,;=@[]{}"


class ExportFailed(Exception):
    """The message names what stands in the way and what to do."""


def export_captures(
    records: Sequence[CaptureRecord],
    read: Callable[[CaptureRecord], bytes | None],
    target: Path,
    wrap: Callable[[Sequence[CaptureRecord]], Iterable[CaptureRecord]] = iter,
) -> int:
    """The captures of one model -> the new folder `target`, all or nothing; how many there are.

    `read` gives None for a capture that went meanwhile; `wrap` may show progress.
    Raises ExportFailed, OSError and what `read` raises.
    """
    models = sorted({record.model for record in records})
    if not models:
        raise ExportFailed("there is nothing to export")
    if len(models) > 1:
        raise ExportFailed(
            f"these are captures of {', '.join(models)}, whose labels are not the same; "
            "name one with --model"
        )
    if target.exists():
        raise ExportFailed(f"{target} exists; name a folder that does not")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        lines: list[dict[str, Any]] = []
        for record in wrap(records):
            data = read(record)
            if data is not None:
                lines.append(_write(record, data, part))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (part / LIST).write_text(text, encoding="utf-8")
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return len(lines)


def folder_of(label: str) -> str:
    """A label as the name of one folder: what a path cannot hold becomes %XX, as in a URL."""
    name = quote(label, safe=_SAFE)
    return "%2E" + name[1:] if name.startswith(".") else name


def _write(record: CaptureRecord, data: bytes, folder: Path) -> dict[str, Any]:
    """The capture's line of the list."""
    about = record.model_dump(mode="json", exclude={"label"})
    if record.modality == "text":
        return {"text": data.decode(), "label": record.label, **about}
    file = folder / folder_of(record.label) / record.file_name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    return {"file": file.relative_to(folder).as_posix(), "label": record.label, **about}
