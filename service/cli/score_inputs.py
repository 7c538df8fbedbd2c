"""What `oodscore score` is given -> groups of like inputs, each small enough for one request."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from service.bundle import Modality

NPY = ".npy"
TXT = ".txt"
JSONL = ".jsonl"
_IMAGES_AT_ONCE = 16
_TEXTS_AT_ONCE = 64
_BYTES_AT_ONCE = 24 * 1024 * 1024  # below the default limit of a request body
_TOLD_CHARACTERS = 60


@dataclass(frozen=True)
class Item:
    """One input, or all rows of one .npy file."""

    name: str  # for people
    source: dict[str, str]  # for programs: {"file": ...} or {"text": ...}
    content: Path | str  # a file of pixels, or a text
    size: int  # about as many bytes in a request

    @property
    def modality(self) -> Modality:
        return "text" if isinstance(self.content, str) else "image"

    @property
    def is_array(self) -> bool:
        return isinstance(self.content, Path) and self.content.suffix == NPY


def read_items(files: Sequence[Path], texts: Sequence[str]) -> list[Item]:
    """The inputs in order: those of the files, then the texts.

    Images are not read yet.  A byte that is no UTF-8 becomes half a surrogate pair, which is
    refused input by input.  Raises typer.BadParameter for a line of a .jsonl file without a text.
    """
    items = [item for file in files for item in _items_of(file)]
    return [*items, *(_text(json.dumps(t, ensure_ascii=False), {"text": t}, t) for t in texts)]


def groups_of(items: Iterable[Item]) -> list[list[Item]]:
    """Neighbours of one modality together up to a number and a size; .npy files alone."""
    groups: list[list[Item]] = []
    size = 0
    for item in items:
        last = groups[-1] if groups else []
        at_once = _TEXTS_AT_ONCE if item.modality == "text" else _IMAGES_AT_ONCE
        joins = (
            0 < len(last) < at_once
            and last[0].modality == item.modality
            and not (item.is_array or last[0].is_array)
            and size + item.size <= _BYTES_AT_ONCE
        )
        if joins:
            last.append(item)
            size += item.size
        else:
            groups.append([item])
            size = item.size
    return groups


def _items_of(file: Path) -> Iterator[Item]:
    if file.suffix == TXT:
        yield _text(str(file), {"file": str(file)}, _read(file).removesuffix("\n"))
    elif file.suffix == JSONL:
        for number, line in enumerate(_read(file).split("\n"), start=1):
            if line.strip():
                name = f"{file}:{number}"
                yield _text(name, {"file": name}, _text_of(line, name))
    else:
        yield Item(str(file), {"file": str(file)}, file, file.stat().st_size)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig", errors="surrogateescape")


def _text(name: str, source: dict[str, str], text: str) -> Item:
    if len(name) > _TOLD_CHARACTERS and "text" in source:
        name = f'{name[:_TOLD_CHARACTERS]}..."'
    # six bytes: a character as JSON escapes it
    return Item(name, source, text, 6 * len(text))


def _text_of(line: str, name: str) -> str:
    """A JSON string, or the field `text` of an object.  Raises typer.BadParameter."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise typer.BadParameter(f"{name}: is no JSON ({exc})") from exc
    text = value.get("text") if isinstance(value, dict) else value  # pyright: ignore
    if not isinstance(text, str):
        raise typer.BadParameter(f'{name}: has no text; a line is a string or {{"text": "..."}}')
    return text
