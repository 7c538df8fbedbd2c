"""What was asked and what was answered: one folder, written so that nothing is ever half there.

FOLDER/state.json              every round, with its answers once they were taken over
FOLDER/round-001/ask.csv       what to label; the column `answer` is the person's
FOLDER/round-001/inputs/       copies of the images that are asked about
FOLDER/round-001/sheet.png     the same to look at; sheet.html of texts
FOLDER/labelled/<class>/       images answered with a class: a folder to train on; labelled.csv
                               names them with their classes as the model spells them
FOLDER/rejected/               images answered OOD: a folder of outliers to train on
FOLDER/labelled.jsonl, rejected.jsonl   the same of texts
"""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TextIO
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from service.bundle import Modality
from training.active.pool import PoolItem
from training.data import DataError
from training.data.text_files import opened_text

STATE_JSON = "state.json"
ASK_CSV = "ask.csv"
OOD, SKIP = "OOD", "skip"
_ANSWER = "answer"
_SAFE = " !#$&'()+,;=@[]{}"  # in the name of a folder


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Section):
    """One question.  `file`: the copy of an image, relative to the folder; `answer`: a class, OOD,
    skip, or None where nobody answered."""

    id: str
    name: str
    file: str | None = None
    text: str | None = None
    answer: str | None = None


class Round(_Section):
    """`open`: its answers have not been taken over yet."""

    number: int
    model: str
    asked: tuple[Asked, ...]
    open: bool = True

    @property
    def folder(self) -> str:
        return f"round-{self.number:03d}"


class State(_Section):
    """Everything that a later call must know."""

    schema_version: int = 1
    modality: Modality
    rounds: tuple[Round, ...] = ()

    @classmethod
    def of(cls, folder: Path, modality: Modality) -> Self:
        """As it was left; a new one where there is none.  DataError where it does not fit."""
        path = folder / STATE_JSON
        if not path.exists():
            return cls(modality=modality)
        try:
            state = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as exc:
            raise DataError(f"{path}: is no state of acquire ({exc})") from exc
        if state.schema_version != 1:
            raise DataError(f"{path}: has schema_version {state.schema_version}; 1 is known here")
        if state.modality != modality:
            raise DataError(
                f"{path}: belongs to a model of {state.modality}s, this one reads {modality}s; "
                "choose another --state folder"
            )
        return state

    @property
    def waiting(self) -> Round | None:
        """The round whose answers are still to come."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].open else None

    def answered(self) -> list[Asked]:
        """Every question that has its answer, of all closed rounds."""
        return [a for r in self.rounds if not r.open for a in r.asked if a.answer is not None]

    def settled_ids(self) -> set[str]:
        """Inputs that are not asked about again: labelled, rejected or skipped."""
        return {asked.id for asked in self.answered()}

    def with_last(self, last: Round) -> "State":
        return self.model_copy(update={"rounds": (*self.rounds[:-1], last)})

    def write(self, folder: Path) -> None:
        """By renaming, so that there is always a whole one."""
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / STATE_JSON) as stream:
            stream.write(self.model_dump_json(indent=1) + "\n")


@contextmanager
def replaced(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file that takes its place only when it is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline=newline) as stream:
        yield stream
    os.replace(temporary, path)


def take_answers(folder: Path, state: State, classes: Sequence[str]) -> State:
    """The open round closed by the answers in its ask.csv; the files they ask for are written.

    DataError, with nothing changed, where an answer is none of the classes, or none is there.
    """
    waiting = state.waiting
    if waiting is None:
        return state
    path = folder / waiting.folder / ASK_CSV
    given = _answers(path, waiting, classes)
    if not given:
        raise DataError(
            f"{path}: round {waiting.number} waits for its answers; write a class, {OOD} or {SKIP} "
            f"into the column {_ANSWER!r} and call again"
        )
    asked = tuple(a.model_copy(update={_ANSWER: given.get(a.id)}) for a in waiting.asked)
    closed = state.with_last(waiting.model_copy(update={"asked": asked, "open": False}))
    _sort_out(folder, closed)
    closed.write(folder)
    return closed


def items_of(folder: Path, asked: Sequence[Asked]) -> list[PoolItem]:
    """Answered inputs, read back from our own copies."""
    return [
        PoolItem(a.id, a.name, None if a.file is None else folder / a.file, a.text) for a in asked
    ]


def _answers(path: Path, waiting: Round, classes: Sequence[str]) -> dict[str, str]:
    """id -> answer, of the rows that have one."""
    if not path.is_file():
        raise DataError(f"{path}: is not there, and round {waiting.number} waits for its answers")
    known = {a.id for a in waiting.asked}
    seen: set[str] = set()
    found: dict[str, str] = {}
    with opened_text("answers", path) as lines:
        table = csv.DictReader(lines)
        if not {"id", _ANSWER} <= set(table.fieldnames or ()):
            raise DataError(
                f"{path}: its first line must name the columns id and {_ANSWER}, with commas "
                f"between; it has {table.fieldnames}"
            )
        for row in table:
            where = f"{path}, line {table.line_num}"
            name, answer = row["id"], (row[_ANSWER] or "").strip()
            if name not in known or name in seen:
                what = "stands twice" if name in seen else "was not asked in this round"
                raise DataError(f"{where}: the id {name!r} {what}")
            seen.add(name)
            if answer and answer not in (*classes, OOD, SKIP):
                shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
                raise DataError(
                    f"{where}: the answer {answer!r} is no class of this model ({shown}), and "
                    f"neither {OOD} nor {SKIP}"
                )
            if answer:
                found[name] = answer
    return found


def _sort_out(folder: Path, state: State) -> None:
    """labelled/ and rejected/ as the answers have it; the same again on every call."""
    answered = [a for a in state.answered() if a.answer != SKIP]
    if state.modality == "text":
        rejected = [{"text": a.text} for a in answered if a.answer == OOD]
        labelled = [{"text": a.text, "label": a.answer} for a in answered if a.answer != OOD]
        _write_lines(folder / "labelled.jsonl", labelled)
        _write_lines(folder / "rejected.jsonl", rejected)
        return
    table: list[list[str]] = []
    for a in answered:
        assert a.file is not None and a.answer is not None  # noqa: S101, PT018
        home = folder / "rejected"
        if a.answer != OOD:
            home = folder / "labelled" / quote(a.answer, safe=_SAFE)
        home.mkdir(parents=True, exist_ok=True)
        target = home / f"{a.id}{Path(a.file).suffix}"
        temporary = home / f".{a.id}.tmp"
        shutil.copyfile(folder / a.file, temporary)
        os.replace(temporary, target)
        if a.answer != OOD:
            table.append([str(target.relative_to(folder)), a.answer])
    with replaced(folder / "labelled.csv", newline="") as stream:
        csv.writer(stream).writerows([["image", "label"], *table])


def _write_lines(path: Path, rows: Sequence[dict[str, str | None]]) -> None:
    with replaced(path) as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
