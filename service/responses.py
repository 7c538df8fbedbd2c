"""Answers -> the JSON body of POST /score, as schemas.ScoreResponse describes it.

Built from columns and written out by pydantic's serialiser: models of forty detectors would take
several times as long to make as to write.  A test holds the two to each other.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from service.errors import ServiceError
from service.loading import LoadedBundle
from service.schemas import ScoreResponse
from service.scoring import Answer


def response_body(bundle: LoadedBundle, answers: Sequence[Answer]) -> bytes:
    """UTF-8 JSON; `results` keeps the order of the answers."""
    return to_json(response_document(bundle, answers))


def response_document(bundle: LoadedBundle, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "model": {"name": bundle.name, "version": bundle.version},
        "results": [_result(index, answer) for index, answer in enumerate(answers)],
    }


def to_response(bundle: LoadedBundle, answers: Sequence[Answer]) -> ScoreResponse:
    return ScoreResponse.model_validate(response_document(bundle, answers))


def _result(index: int, answer: Answer) -> dict[str, Any]:
    if isinstance(answer, ServiceError):
        return {"index": index, "error": {"code": answer.code, "detail": answer.detail}}
    row = answer.detectors
    detectors = {
        name: {
            "score": score,
            "threshold": threshold,
            "p_value": p_value,
            "decision": "OOD" if score > threshold else "ID",
        }
        for name, score, threshold, p_value in zip(
            row.names, row.scores, row.thresholds, row.p_values, strict=True
        )
    }
    deciding = detectors[answer.detector]
    result = {
        "index": index,
        "decision": deciding["decision"],
        "label": answer.label,
        "label_index": answer.label_index,
        "confidence": answer.confidence,
        "score": deciding["score"],
        "p_value": deciding["p_value"],
        "detector": answer.detector,
        "detectors": detectors,
    }
    if answer.truncated is not None:
        result["truncated"] = answer.truncated
    return result
