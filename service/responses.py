"""Answers -> the JSON body of POST /score, as schemas.ScoreResponse describes it.

The text of forty detectors is mostly the same in every answer: it is kept, and numbers written by
pydantic's serialiser are put into it.  Objects would take three times as long, models ten times.
A test holds body, document and schema to each other.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from service.errors import ServiceError
from service.loading import LoadedBundle
from service.schemas import ScoreResponse
from service.scoring import Answer


def response_body(bundle: LoadedBundle, answers: Sequence[Answer]) -> bytes:
    """UTF-8 JSON; `results` keeps the order of the answers."""
    model = to_json({"name": bundle.name, "version": bundle.version})
    results = b",".join([_result_text(index, answer) for index, answer in enumerate(answers)])
    return b'{"model":%b,"results":[%b]}' % (model, results)


def response_document(bundle: LoadedBundle, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "model": {"name": bundle.name, "version": bundle.version},
        "results": [_result(index, answer) for index, answer in enumerate(answers)],
    }


def to_response(bundle: LoadedBundle, answers: Sequence[Answer]) -> ScoreResponse:
    return ScoreResponse.model_validate(response_document(bundle, answers))


def _result_text(index: int, answer: Answer) -> bytes:
    """JSON of what _result gives."""
    if isinstance(answer, ServiceError):
        return to_json(_result(index, answer))
    row = answer.detectors
    scores, p_values = _numbers(row.scores), _numbers(row.p_values)
    above = [score > threshold for score, threshold in zip(row.scores, row.thresholds, strict=True)]
    decisions = [b"OOD" if ood else b"ID" for ood in above]
    values = [b""] * (3 * len(scores))
    values[0::3], values[1::3], values[2::3] = scores, p_values, decisions
    place = row.names.index(answer.detector)
    return (
        b'{"index":%d,"decision":"%b","label":%b,"label_index":%d,"confidence":%b,"score":%b,'
        b'"p_value":%b,"detector":%b,"detectors":%b%b}'
    ) % (
        index,
        decisions[place],
        to_json(answer.label),
        answer.label_index,
        to_json(answer.confidence),
        scores[place],
        p_values[place],
        to_json(answer.detector),
        _detectors_template(row.names, row.thresholds) % tuple(values),
        b"" if answer.truncated is None else b',"truncated":' + to_json(answer.truncated),
    )


def _numbers(values: list[float]) -> list[bytes]:
    return to_json(values)[1:-1].split(b",")


@lru_cache(maxsize=256)  # few plans are asked for, with a set of thresholds a class at most
def _detectors_template(names: tuple[str, ...], thresholds: tuple[float, ...]) -> bytes:
    """To be filled with score, p-value and decision of each detector."""
    parts = [
        b'%b:{"score":%%b,"threshold":%b,"p_value":%%b,"decision":"%%b"}'
        % (to_json(name).replace(b"%", b"%%"), to_json(threshold))
        for name, threshold in zip(names, thresholds, strict=True)
    ]
    return b"{%b}" % b",".join(parts)


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
