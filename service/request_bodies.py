"""The five kinds of body POST /score reads -> ScoreRequest.  Limits hold while reading."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from service.arrays import parse_npy
from service.bundle import no_unicode
from service.decoding import CONTENT_TYPES as IMAGE_TYPES
from service.errors import (
    Base64Invalid,
    BodyTooLarge,
    ContentTypeUnsupported,
    InvalidParameter,
    JsonTooLong,
    MalformedRequest,
    NoInputs,
    TextUnreadable,
    TooManyInputs,
    told,
)
from service.inputs import BadInput, EncodedImage, Input, PixelImage, ScoreRequest, text_input
from service.json_size import holds_at_most
from service.multipart import parse_multipart
from service.schemas import InputItem, ScoreBody, ScoreParameters, describe_problems

JSON = "application/json"
MULTIPART = "multipart/form-data"
NPY = "application/x-npy"
TEXT = "text/plain"
_ALIASES = {"image/jpg": "image/jpeg"}  # registered nowhere, sent by many
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # or a whole one
_MANY_ELEMENTS = 2**16
_UTF8 = (b"utf-8", b"utf8", b"us-ascii")


@dataclass(frozen=True)
class BodyLimits:
    max_body_bytes: int
    max_inputs: int
    max_npy_inputs: int
    max_pixels: int
    max_text_characters: int


async def read_body(request: Request, max_body_bytes: int) -> bytes:
    """The whole body; at most one chunk more than the limit is ever held.

    Raises BodyTooLarge; starlette's ClientDisconnect.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_body_bytes:
        raise BodyTooLarge(max_body_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_body_bytes:
            raise BodyTooLarge(max_body_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def parse_body(content_type: str, body: bytes, limits: BodyLimits) -> ScoreRequest:
    """Raises RequestRejected: ContentTypeUnsupported, MalformedRequest, NoInputs, ...

    What is wrong with one of several inputs stays with that input.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if not body and not media_type:
        raise NoInputs
    media_type = _ALIASES.get(media_type, media_type)
    if media_type in IMAGE_TYPES:
        if not body:
            raise NoInputs
        return ScoreRequest([EncodedImage(body)])
    if media_type not in _PARSERS:
        accepted = (*IMAGE_TYPES, TEXT, MULTIPART, JSON, NPY)
        raise ContentTypeUnsupported(media_type, accepted)
    request = _PARSERS[media_type](content_type, body, limits)
    if not request.inputs:
        raise NoInputs
    return request


def with_parameters(request: ScoreRequest, parameters: ScoreParameters) -> ScoreRequest:
    """Join body and query.  Raises InvalidParameter when both say different things."""
    detectors = parameters.detectors
    names = None if detectors is None else [name.strip() for name in detectors.split(",")]
    return ScoreRequest(
        inputs=request.inputs,
        model=_one("model", request.model, parameters.model),
        version=_one("version", request.version, parameters.version),
        detectors=_one("detectors", request.detectors, names),
        id_acceptance=_one("id_acceptance", request.id_acceptance, parameters.id_acceptance),
    )


_T = TypeVar("_T")


def _one(name: str, in_body: _T | None, in_query: _T | None) -> _T | None:
    if in_body is not None and in_query is not None and in_body != in_query:
        raise InvalidParameter(f"{name} is given twice, differently, in the body and the query")
    return in_query if in_body is None else in_body


def max_json_elements(limits: BodyLimits) -> int:
    """More than any sensible request has: an input is two, and as many strings."""
    return max(_MANY_ELEMENTS, 4 * limits.max_inputs)


def _parse_json(_: str, body: bytes, limits: BodyLimits) -> ScoreRequest:
    limit = max_json_elements(limits)
    if not holds_at_most(body, limit, 2 * limit):
        raise JsonTooLong(limit, limits.max_inputs)
    cut: Mapping[int, BadInput] = {}
    try:
        try:
            parsed = ScoreBody.model_validate_json(body)
        except ValidationError as exc:
            repaired, cut = _without_half_pairs(body)
            if not cut:
                raise exc
            parsed = ScoreBody.model_validate_json(repaired)
    except ValidationError as exc:
        problems = exc.errors(include_url=False, include_context=False, include_input=False)
        raise MalformedRequest(describe_problems(problems[:10])) from exc
    if len(parsed.inputs) > limits.max_inputs:
        raise TooManyInputs(len(parsed.inputs), limits.max_inputs)
    inputs = (_json_input(item, limits) for item in parsed.inputs)
    return ScoreRequest(
        inputs=[cut.get(index, item) for index, item in enumerate(inputs)],
        model=parsed.model,
        version=parsed.version,
        detectors=parsed.detectors,
        id_acceptance=parsed.id_acceptance,
    )


def _without_half_pairs(body: bytes) -> tuple[str, dict[int, BadInput]]:
    """A JSON body whose texts hold half a surrogate pair, as in "\\ud83d" -> the body without
    them, and what is wrong with which input; nothing is found in a body that is no JSON.

    Whoever cuts a string of UTF-16 makes such texts.  The parser refuses the whole body.
    """
    cut: dict[int, BadInput] = {}
    if not _HALF_PAIR.search(body):
        return "", cut
    try:
        document: Any = json.loads(body)
        for index, item in enumerate(document["inputs"]):
            try:
                item["text"].encode()
            except UnicodeEncodeError as exc:
                cut[index] = BadInput(TextUnreadable(no_unicode(exc)), "text")
                item["text"] = ""
            except (AttributeError, KeyError, TypeError):
                continue  # not a text; the parser will say so
        return json.dumps(document), cut
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", {}


def _json_input(item: InputItem, limits: BodyLimits) -> Input:
    if item.text is not None:
        return text_input(item.text, limits.max_text_characters)
    try:
        return EncodedImage(base64.b64decode(item.image or "", validate=True))
    except (binascii.Error, ValueError):
        return BadInput(Base64Invalid(), "image")


def _parse_multipart(content_type: str, body: bytes, limits: BodyLimits) -> ScoreRequest:
    inputs: list[Input] = []
    for part in parse_multipart(content_type, body, limits.max_inputs):
        if part.name == "file":
            inputs.append(EncodedImage(bytes(part.data)))
        elif part.name == "text":
            inputs.append(_encoded_text(part.data, limits))
        else:
            raise MalformedRequest(f"part {told(part.name)} is neither 'file' nor 'text'")
    return ScoreRequest(inputs)


def _parse_npy(_: str, body: bytes, limits: BodyLimits) -> ScoreRequest:
    if not body:
        raise NoInputs
    return ScoreRequest(
        [PixelImage(row) for row in parse_npy(body, limits.max_npy_inputs, limits.max_pixels)]
    )


def _encoded_text(data: bytes | bytearray, limits: BodyLimits) -> Input:
    try:
        return text_input(data.decode("utf-8-sig"), limits.max_text_characters)
    except UnicodeDecodeError as exc:
        problem = f"the text is not UTF-8: {exc.reason} at byte {exc.start}"
        return BadInput(TextUnreadable(problem), "text")


def _parse_text(content_type: str, body: bytes, limits: BodyLimits) -> ScoreRequest:
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").lower()
    if charset not in _UTF8:
        raise ContentTypeUnsupported(content_type, [f"{TEXT}; charset=utf-8"])
    if not body:
        raise NoInputs
    return ScoreRequest([_encoded_text(body, limits)])


_PARSERS: Mapping[str, Callable[[str, bytes, BodyLimits], ScoreRequest]] = {
    JSON: _parse_json,
    MULTIPART: _parse_multipart,
    NPY: _parse_npy,
    TEXT: _parse_text,
}
