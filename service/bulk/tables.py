"""A table of inputs -> a table of scores: a pure function of the bytes in it and of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.arrays import parse_npy
from service.bulk.arrow import Schema, Table, pa
from service.decision import Plan
from service.errors import ImageUnreadable, ServiceError
from service.inputs import BadInput, EncodedImage, Input, PixelImage, text_input
from service.loading import LoadedBundle
from service.responses import response_document
from service.scoring import Answer, Deadline, Scorer

_NO_DEADLINE = Deadline(float("inf"), float("inf"))


@dataclass(frozen=True)
class Model:
    """What scores, opened once in each worker."""

    bundle: LoadedBundle
    plan: Plan
    scorer: Scorer
    max_text_characters: int

    @property
    def scores(self) -> Schema:
        return scores_schema(self.plan.names)


def scores_schema(detectors: Sequence[str]) -> Schema:
    """One row an input; every column besides the first three is null where there is no answer,
    and the last two where there is one."""
    columns: list[tuple[str, Any]] = [
        ("index", pa.int64()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("decision", pa.string()),
        ("label", pa.string()),
        ("label_index", pa.int64()),
        ("confidence", pa.float64()),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("detector", pa.string()),
        ("truncated", pa.bool_()),  # of texts only
    ]
    for name in detectors:
        columns += [(f"{name}_score", pa.float64()), (f"{name}_p_value", pa.float64())]
    return pa.schema([*columns, ("error_code", pa.string()), ("error_detail", pa.string())])


def score_table(inputs: Table, model: Model) -> Table:
    """Columns of reading.INPUTS -> those of `scores_schema`, row by row.

    Raises DetectorUnavailable; inputs fail one by one.
    """
    rows: list[dict[str, Any]] = inputs.to_pylist()
    readable = [row for row in rows if row["problem_code"] is None]
    scored = model.scorer.score(
        model.bundle, [_input(row, model) for row in readable], model.plan, _NO_DEADLINE
    )
    answers = iter(_cells(model, scored.answers))
    found = [_problem(row) if row["problem_code"] else next(answers) for row in rows]
    columns = {name: [row.get(name) for row in found] for name in model.scores.names[3:]} | {
        name: inputs.column(name) for name in ("index", "file", "row")
    }
    return pa.table({name: columns[name] for name in model.scores.names}, schema=model.scores)


def _input(row: dict[str, Any], model: Model) -> Input:
    if row["image"] is not None:
        return EncodedImage(row["image"])
    if row["pixels"] is not None:
        try:
            (pixels,) = parse_npy(row["pixels"], 1, model.scorer.limits.max_pixels)
        except ServiceError as exc:
            return BadInput(ImageUnreadable(exc.detail), "image")
        return PixelImage(pixels)
    return text_input(row["text"], model.max_text_characters)


def _problem(row: dict[str, Any]) -> dict[str, Any]:
    return {"error_code": row["problem_code"], "error_detail": row["problem_detail"]}


def _cells(model: Model, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """By the same words as an answer of /score."""
    found: list[dict[str, Any]] = []
    for result in response_document(model.bundle, answers)["results"]:
        if "error" in result:
            error = result["error"]
            found.append({"error_code": error["code"], "error_detail": error["detail"]})
            continue
        cells = {name: value for name, value in result.items() if name not in _NO_COLUMNS}
        for name, each in result["detectors"].items():
            cells |= {f"{name}_score": each["score"], f"{name}_p_value": each["p_value"]}
        found.append(cells)
    return found


_NO_COLUMNS = frozenset({"index", "detectors"})
