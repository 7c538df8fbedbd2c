"""The body of an inference request -> what is asked.  Limits hold before memory is taken."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from service.bundle import Manifest, Modality
from service.errors import (
    BodyTooLarge,
    ContentEncodingUnsupported,
    InvalidParameter,
    MalformedRequest,
    NoInputs,
    TensorTooLong,
    told,
)
from service.inputs import Input
from service.json_size import holds_at_most
from service.open_inference.schemas import InferBody, InputTensor, Parameters
from service.open_inference.tensors import raw_input, to_inputs
from service.request_bodies import BodyLimits, max_json_elements
from service.schemas import describe_problems

# numbers in JSON take sixty times their room in memory; send them behind it
MAX_JSON_ELEMENTS = 2**20
# an element's own output: `score/energy`
DETECTOR_OUTPUTS = ("score", "threshold", "p_value", "decision")

_WINDOWS: Mapping[str, int] = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True)
class WantedOutput:
    name: str
    binary: bool

    @property
    def detector(self) -> str | None:
        """`energy` of `score/energy`."""
        kind, _, detector = self.name.partition("/")
        return detector if detector and kind in DETECTOR_OUTPUTS else None


@dataclass(frozen=True)
class InferRequest:
    """`outputs` None: all of them, behind the JSON if `binary`."""

    inputs: Sequence[Input]
    id: str | None = None
    detectors: Sequence[str] | None = None
    id_acceptance: float | None = None
    timeout_seconds: float | None = None
    outputs: Sequence[WantedOutput] | None = None
    binary: bool = False


def parse_infer(
    body: bytes,
    header_length: str | None,
    content_encoding: str,
    modality: Modality,
    limits: BodyLimits,
) -> InferRequest:
    """`header_length`: Inference-Header-Content-Length, the size of the JSON before the tensors.

    Raises RequestRejected: MalformedRequest, TensorInvalid, UnknownTensor, InvalidParameter, ...
    """
    body = _decompressed(body, content_encoding, limits.max_body_bytes)
    if not body:
        raise NoInputs
    size = _header_size(header_length, len(body))
    if size == 0:
        return InferRequest([raw_input(body, modality, limits)], binary=True)
    asked = _parse_json(body[:size], max_json_elements(limits))
    parameters = _request_parameters(asked.parameters)
    (tensor,) = asked.inputs
    inputs = to_inputs(tensor, _binary_of(tensor, memoryview(body)[size:]), modality, limits)
    binary = bool(parameters.get("binary_data_output", False))
    outputs = [
        WantedOutput(o.name, bool(_checked(o.parameters, _OUTPUT).get("binary_data", binary)))
        for o in asked.outputs
    ]
    if len({output.name for output in outputs}) != len(outputs):
        raise MalformedRequest("an output is asked for twice")
    timeout = parameters.get("timeout")
    acceptance = parameters.get("id_acceptance")
    detectors = parameters.get("detectors")
    return InferRequest(
        inputs,
        id=asked.id,
        detectors=None if detectors is None else [n.strip() for n in str(detectors).split(",")],
        id_acceptance=None if acceptance is None else _float("id_acceptance", acceptance),
        timeout_seconds=None if timeout is None else _float("timeout", timeout) / 1e6,
        outputs=outputs or None,
        binary=binary,
    )


def detectors_to_run(request: InferRequest, manifest: Manifest) -> Sequence[str] | None:
    """Those named, and those whose outputs are asked for; None: what the model gives by itself."""
    if request.outputs is None:
        return request.detectors
    deciding = [manifest.policy.primary] if request.detectors is None else request.detectors
    asked = [output.detector for output in request.outputs if output.detector is not None]
    return list(dict.fromkeys([*deciding, *asked]))


def _parse_json(text: bytes, max_strings: int) -> InferBody:
    if not holds_at_most(text, MAX_JSON_ELEMENTS, max_strings):
        raise TensorTooLong(MAX_JSON_ELEMENTS)
    try:
        return InferBody.model_validate_json(text)
    except ValidationError as exc:
        problems = exc.errors(include_url=False, include_context=False, include_input=False)
        raise MalformedRequest(describe_problems(problems[:10])) from exc


def _header_size(header_length: str | None, body_size: int) -> int:
    if header_length is None:
        return body_size
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 16):
        raise MalformedRequest("Inference-Header-Content-Length is no number")
    if int(header_length) > body_size:
        raise MalformedRequest(
            f"Inference-Header-Content-Length is {header_length}, the body has {body_size} bytes"
        )
    return int(header_length)


def _binary_of(tensor: InputTensor, rest: memoryview) -> memoryview | None:
    """What stands behind the JSON, which is one tensor's or nobody's."""
    size = _checked(tensor.parameters, _INPUT).get("binary_data_size")
    if size is None:
        if rest:
            raise MalformedRequest(f"{len(rest)} bytes behind the JSON belong to no input")
        return None
    if size != len(rest):
        raise MalformedRequest(
            f"binary_data_size is {size}, but {len(rest)} bytes stand behind the JSON"
        )
    return rest


_INPUT: Mapping[str, tuple[type, ...]] = {"binary_data_size": (int,)}
_OUTPUT: Mapping[str, tuple[type, ...]] = {"binary_data": (bool,)}
_REQUEST: Mapping[str, tuple[type, ...]] = {
    "detectors": (str,),
    "id_acceptance": (float, int),
    "timeout": (int,),
    "binary_data_output": (bool,),
    "priority": (int,),  # all requests are alike here
}


def _request_parameters(parameters: Parameters) -> Parameters:
    checked = _checked(parameters, _REQUEST)
    if (timeout := checked.get("timeout")) is not None and int(timeout) <= 0:
        raise InvalidParameter(f"timeout is {timeout}; it is a number of microseconds above 0")
    return checked


def _checked(parameters: Parameters, known: Mapping[str, tuple[type, ...]]) -> Parameters:
    """Raises InvalidParameter."""
    for name, value in parameters.items():
        if name not in known:
            raise InvalidParameter(f"no parameter {told(name)} here; known: {', '.join(known)}")
        if type(value) not in known[name]:
            kinds = " or ".join(kind.__name__ for kind in known[name])
            raise InvalidParameter(f"parameter {name} is no {kinds}")
    return parameters


def _float(name: str, value: float | str) -> float:
    """Raises InvalidParameter: a whole number of JSON has any number of digits."""
    try:
        return float(value)
    except OverflowError as exc:
        raise InvalidParameter(f"parameter {name} is larger than any number read here") from exc


def _decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Raises ContentEncodingUnsupported, BodyTooLarge, MalformedRequest."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOWS:
        raise ContentEncodingUnsupported(encoding, (*_WINDOWS, "identity"))
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        whole = stream.decompress(body, limit + 1)
    except zlib.error as exc:
        raise MalformedRequest(f"the body is no {encoding}: {exc}") from exc
    if len(whole) > limit:
        raise BodyTooLarge(limit)
    if not stream.eof or stream.unused_data:
        raise MalformedRequest(f"the {encoding} of the body is cut, or goes on behind its end")
    return whole
