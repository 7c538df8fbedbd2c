"""Answers -> output tensors, in JSON or behind it."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json

from service.bundle import Manifest, Modality
from service.decision import Plan, Verdict
from service.errors import ServiceError, UnknownTensor
from service.loading import LoadedBundle
from service.open_inference.requests import DETECTOR_OUTPUTS, InferRequest, WantedOutput
from service.open_inference.schemas import Datatype
from service.scoring import Answer

ERROR = "error"  # asking for it means: refuse no request for one of its inputs
_NAN = float("nan")


@dataclass(frozen=True)
class _Column:
    """One output; `missing` stands where an input got no answer."""

    datatype: Datatype
    value: Callable[[Verdict], Any]
    missing: Any


_COLUMNS: Mapping[str, _Column] = {
    "decision": _Column("BYTES", lambda v: v.deciding.decision, ""),
    "label": _Column("BYTES", lambda v: v.label, ""),
    "label_index": _Column("INT64", lambda v: v.label_index, -1),
    "confidence": _Column("FP64", lambda v: v.confidence, _NAN),
    "detector": _Column("BYTES", lambda v: v.detector, ""),
    "score": _Column("FP32", lambda v: v.deciding.score, _NAN),
    "threshold": _Column("FP64", lambda v: v.deciding.threshold, _NAN),
    "p_value": _Column("FP64", lambda v: v.deciding.p_value, _NAN),
}
_TRUNCATED = _Column("BOOL", lambda v: bool(v.truncated), False)
_NUMPY = {"BOOL": "?", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}


@dataclass(frozen=True)
class EncodedAnswer:
    """`json_size` None: there is nothing behind the JSON."""

    body: bytes
    json_size: int | None


def output_datatypes(modality: Modality, detectors: Sequence[str]) -> dict[str, Datatype]:
    """Every output there is, in the order of an answer; `error` last, which comes if asked for."""
    plain: dict[str, Datatype] = {name: column.datatype for name, column in _COLUMNS.items()}
    if modality == "text":
        plain["truncated"] = _TRUNCATED.datatype
    for detector in detectors:
        for kind in DETECTOR_OUTPUTS:
            plain[f"{kind}/{detector}"] = _COLUMNS[kind].datatype
    plain[ERROR] = "BYTES"
    return plain


def refuse_failures(request: InferRequest, answers: Sequence[Answer]) -> None:
    """Raises the first input's error, unless the request asks for errors as an output."""
    if any(output.name == ERROR for output in request.outputs or ()):
        return
    for index, answer in enumerate(answers):
        if isinstance(answer, ServiceError):
            if len(answers) > 1:
                answer.args = (f"input {index}: {answer.detail}",)
            raise answer


def encode_answers(
    bundle: LoadedBundle, plan: Plan, request: InferRequest, answers: Sequence[Answer]
) -> EncodedAnswer:
    """Of a request whose outputs have been checked."""
    datatypes = output_datatypes(bundle.modality, plan.names)
    if request.outputs is None:
        wanted = [WantedOutput(name, request.binary) for name in datatypes if name != ERROR]
    else:
        wanted = list(request.outputs)
    outputs: list[dict[str, Any]] = []
    behind: list[bytes] = []
    for output in wanted:
        datatype = datatypes[output.name]
        values = _values(output.name, answers)
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": datatype,
            "shape": [len(answers)],
        }
        if output.binary:
            data = _to_bytes(datatype, values)
            tensor["parameters"] = {"binary_data_size": len(data)}
            behind.append(data)
        else:
            tensor["data"] = values
        outputs.append(tensor)
    document: dict[str, Any] = {"model_name": bundle.name, "model_version": bundle.version}
    if request.id is not None:
        document["id"] = request.id
    text = to_json(document | {"outputs": outputs}, inf_nan_mode="null")
    if not any(output.binary for output in wanted):
        return EncodedAnswer(text, None)
    return EncodedAnswer(b"".join([text, *behind]), len(text))


def check_outputs(request: InferRequest, manifest: Manifest) -> None:
    """Before work is done.  Raises UnknownTensor."""
    if request.outputs is None:
        return
    known = output_datatypes(manifest.modality, [spec.name for spec in manifest.detectors])
    for output in request.outputs:
        if output.name not in known:
            raise UnknownTensor("output", output.name, list(known))


def _values(name: str, answers: Sequence[Answer]) -> list[Any]:
    if name == ERROR:
        return [answer.code if isinstance(answer, ServiceError) else "" for answer in answers]
    kind, _, detector = name.partition("/")
    column = _TRUNCATED if name == "truncated" else _COLUMNS[kind]

    def value(answer: Answer) -> Any:
        if isinstance(answer, ServiceError):
            return column.missing
        if detector:
            return getattr(answer.detectors[detector], kind)
        return column.value(answer)

    return [value(answer) for answer in answers]


def _to_bytes(datatype: Datatype, values: Sequence[Any]) -> bytes:
    if datatype != "BYTES":
        return np.array(values, _NUMPY[datatype]).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(data)) + data for data in encoded)
