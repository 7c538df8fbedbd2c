"""How `oodscore score` prints its answers: for people, as JSON lines, as CSV."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import typer

from service.schemas import FailedResult, ModelId, ScoreResult

_COLUMNS = (
    "file", "text", "model", "version", "decision", "label", "label_index", "confidence", "score",
    "p_value", "detector", "truncated", "error_code", "error_detail",
)  # fmt: skip


@dataclass(frozen=True)
class Answered:
    """One input with its answer."""

    name: str
    source: dict[str, str]
    model: ModelId
    result: ScoreResult | FailedResult


Tell = Callable[[Answered], None]


def tell_in_words(answered: Answered) -> None:
    name, result = answered.name, answered.result
    if isinstance(result, FailedResult):
        typer.echo(f"{name}  ERROR  {result.error.code}: {result.error.detail}")
        return
    cut = "  (only its beginning was read)" if result.truncated else ""
    typer.echo(
        f"{name}  {result.decision}  {result.label} ({result.confidence:.1%})  "
        f"{result.detector} {result.score:.4g}, p = {result.p_value:.3g}{cut}"
    )


def tell_as_json(answered: Answered) -> None:
    result = answered.result.model_dump(exclude_none=True)
    typer.echo(json.dumps({**answered.source, "model": answered.model.model_dump(), **result}))


class CsvTable:
    """A header and a line an input; the detectors of the first answer are the last columns.

    What fails before the first answer waits for it, and is written at the latest at the end.
    """

    def __init__(self) -> None:
        self._detectors: list[str] | None = None
        self._waiting: list[Answered] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._waiting:
            self._begin([])

    def tell(self, answered: Answered) -> None:
        if self._detectors is None:
            self._waiting.append(answered)
            if isinstance(answered.result, ScoreResult):
                self._begin(list(answered.result.detectors))
            return
        self._write(_cells(answered, self._detectors))

    def _begin(self, detectors: list[str]) -> None:
        self._detectors = detectors
        of_detectors = [f"{name}_{what}" for name in detectors for what in ("score", "p_value")]
        self._write([*_COLUMNS, *of_detectors])
        for answered in self._waiting:
            self._write(_cells(answered, detectors))
        self._waiting.clear()

    def _write(self, cells: list[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        # half a surrogate pair can be in a text, not in UTF-8
        typer.echo(line.getvalue().encode(errors="backslashreplace").decode(), nl=False)


def _cells(answered: Answered, detectors: list[str]) -> list[Any]:
    cells: dict[str, Any] = {
        **answered.source,
        "model": answered.model.name,
        "version": answered.model.version,
    }
    result = answered.result
    if isinstance(result, FailedResult):
        cells |= {"error_code": result.error.code, "error_detail": result.error.detail}
        of_detectors: list[Any] = [""] * 2 * len(detectors)
    else:
        cells |= result.model_dump(exclude={"index", "detectors"}, exclude_none=True)
        found = [result.detectors[name] for name in detectors]
        of_detectors = [value for each in found for value in (each.score, each.p_value)]
    return [*(cells.get(column, "") for column in _COLUMNS), *of_detectors]
