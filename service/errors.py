"""Everything the service refuses, and why.  No HTTP here; http_errors.py has the statuses.

ServiceError
  RequestRejected      the request as a whole: MalformedRequest, InvalidParameter, NoInputs,
                       AcceptanceOutOfReach, UnknownModel, UnknownVersion, UnknownDetector,
                       MixedModalities, ModalityNotServed, BodyTooLarge, TooManyInputs,
                       ContentTypeUnsupported, ContentEncodingUnsupported, ArrayInvalid,
                       UnknownTensor, TensorInvalid, TensorTooLong, ReportMissing, CapturesOff,
                       CaptureMissing, HeadTooLarge, JsonTooLong
  InputRejected        one input of it: ImageUnreadable, ImageAnimated, ImageTooLarge,
                       ImageTooManyPixels, TextUnreadable, TextTooLong, Base64Invalid,
                       WrongModality
  AccessDenied         the caller may not ask: KeyMissing, KeyUnknown, ScopeMissing, AdminClosed
  InputFailed          the model gave no answer: InferenceFailed, ScoreNotFinite
  Unavailable          try again: Overloaded, RateLimited, DetectorUnavailable, NotReady,
                       ShuttingDown, DeadlinePassed

`code` is stable and part of the HTTP interface; the message is for people.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from service.bundle import Modality

_ECHOED_CHARACTERS = 128
_ARTICLE: dict[Modality, str] = {"image": "an image", "text": "a text"}


def told(said: str) -> str:
    """What the caller sent, in quotes, to be told in a message: the beginning of it."""
    more = "..." if len(said) > _ECHOED_CHARACTERS else ""
    return f"{said[:_ECHOED_CHARACTERS]!r}{more}"


class ServiceError(Exception):
    """A refusal the caller can branch on by `code`."""

    code: ClassVar[str]

    @property
    def detail(self) -> str:
        return str(self)


class RequestRejected(ServiceError):
    """The whole request is refused."""


class InputRejected(ServiceError):
    """One input cannot be read or scored; its neighbours can."""


class InputFailed(ServiceError):
    """The model, not the caller, is at fault for one input."""


class Unavailable(ServiceError):
    """Nothing is wrong with the request; the service cannot answer it now."""


class AccessDenied(ServiceError):
    """The caller showed no key that allows this; `challenge` is the header WWW-Authenticate."""

    challenge: ClassVar[str] = 'Bearer realm="oodscore"'


class KeyMissing(AccessDenied):
    code = "key_missing"

    def __init__(self) -> None:
        super().__init__(
            "this service wants an API key; send it as Authorization: Bearer KEY, or as X-API-Key"
        )


class KeyUnknown(AccessDenied):
    code = "key_unknown"
    challenge = f'{AccessDenied.challenge}, error="invalid_token"'

    def __init__(self) -> None:
        super().__init__("the service does not know this API key")


class ScopeMissing(AccessDenied):
    """The key is known, and made for something else."""

    code = "scope_missing"
    challenge = f'{AccessDenied.challenge}, error="insufficient_scope"'

    def __init__(self, wanted: Sequence[str]) -> None:
        super().__init__(f"the API key lacks the scope {' or '.join(wanted)} that this needs")


class AdminClosed(AccessDenied):
    """No key may administer: better than everybody."""

    code = "admin_closed"

    def __init__(self) -> None:
        super().__init__(
            "no key with the scope admin is configured, so nobody may ask for this; "
            "oodscore keys new makes one"
        )


class RateLimited(Unavailable):
    """The key made its requests for now; after `retry_after_seconds` it may make the next."""

    code = "rate_limited"

    def __init__(self, key_name: str, wait_seconds: float) -> None:
        super().__init__(
            f"the API key {key_name} may make its next request in {wait_seconds:.3g} s"
        )
        self.retry_after_seconds = max(1, math.ceil(wait_seconds))


class MalformedRequest(RequestRejected):
    code = "malformed_request"


class InvalidParameter(RequestRejected):
    code = "invalid_parameter"


class NoInputs(RequestRejected):
    code = "no_inputs"

    def __init__(self) -> None:
        super().__init__("the request holds no input; send at least one image or text")


class AcceptanceOutOfReach(RequestRejected):
    """The calibration set is too small to promise so high an acceptance."""

    code = "acceptance_out_of_reach"

    def __init__(self, detector: str, id_acceptance: float, calibration_size: int) -> None:
        limit = calibration_size / (calibration_size + 1)
        super().__init__(
            f"id_acceptance {id_acceptance} is out of reach for {detector}: its "
            f"{calibration_size} calibration scores promise at most {limit:.6g}"
        )
        self.limit = limit


class UnknownModel(RequestRejected):
    code = "unknown_model"

    def __init__(self, name: str, served: Sequence[str], kind: str = "model") -> None:
        super().__init__(f"no {kind} {told(name)}; served: {', '.join(served) or 'none'}")


class MixedModalities(RequestRejected):
    """One model answers a request, and the caller named none."""

    code = "mixed_modalities"

    def __init__(self) -> None:
        super().__init__(
            "the request holds images and texts and names no model; send them in requests of "
            "their own, or name the model that shall answer"
        )


class ModalityNotServed(RequestRejected):
    code = "modality_not_served"

    def __init__(self, modality: Modality, served: Sequence[str]) -> None:
        super().__init__(f"no {modality} model is served; served: {', '.join(served)}")


class UnknownVersion(RequestRejected):
    code = "unknown_version"

    def __init__(self, name: str, version: str, served: Sequence[str]) -> None:
        super().__init__(f"no version {told(version)} of {name}; served: {', '.join(served)}")


class UnknownDetector(RequestRejected):
    code = "unknown_detector"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no detector {told(name)}; this model has {', '.join(known)}")


class BodyTooLarge(RequestRejected):
    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes")


class HeadTooLarge(RequestRejected):
    """Request line and headers, which end nowhere."""

    code = "head_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the head of the request is larger than {limit} bytes; send fewer or shorter headers"
        )


class TooManyInputs(RequestRejected):
    code = "too_many_inputs"

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(f"the request holds {count} inputs; the limit is {limit}")


class JsonTooLong(RequestRejected):
    """Be it of empty objects: parsed, it would take a multiple of its room."""

    code = "json_too_long"

    def __init__(self, limit: int, max_inputs: int) -> None:
        super().__init__(
            f"the JSON holds more than {limit} elements; a request has at most {max_inputs} inputs"
        )


class ContentTypeUnsupported(RequestRejected):
    code = "content_type_unsupported"

    def __init__(self, content_type: str, accepted: Sequence[str]) -> None:
        super().__init__(
            f"content type {told(content_type)} is not accepted; send {', '.join(accepted)}"
        )


class ArrayInvalid(RequestRejected):
    """The npy body is not a uint8 array (N, H, W, C) or (N, H, W)."""

    code = "array_invalid"


class ContentEncodingUnsupported(RequestRejected):
    code = "content_encoding_unsupported"

    def __init__(self, encoding: str, accepted: Sequence[str]) -> None:
        super().__init__(
            f"content encoding {told(encoding)} is not accepted; send {', '.join(accepted)}"
        )


class UnknownTensor(RequestRejected):
    """An input or output that the model does not have."""

    code = "unknown_tensor"

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no {kind} {told(name)}; this model has {', '.join(known)}")


class TensorInvalid(RequestRejected):
    """Datatype, shape or data of an input tensor cannot be what they say."""

    code = "tensor_invalid"


class TensorTooLong(RequestRejected):
    code = "tensor_too_long"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"the JSON holds more than {limit} elements or too many strings; send the tensor as "
            "binary data behind it"
        )


class ReportMissing(RequestRejected):
    code = "report_missing"

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"{name} version {version} carries no report.html")


class CapturesOff(RequestRejected):
    code = "captures_off"

    def __init__(self) -> None:
        super().__init__("no inputs are captured; OODSCORE_CAPTURE_DIR turns it on")


class CaptureMissing(RequestRejected):
    code = "unknown_capture"

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"no capture {told(identity)}; it may have been pushed out or have expired"
        )


class ImageUnreadable(InputRejected):
    code = "image_unreadable"


class ImageAnimated(InputRejected):
    code = "image_animated"

    def __init__(self) -> None:
        super().__init__("the image has several frames; send one of them")


class ImageTooLarge(InputRejected):
    code = "image_too_large"

    def __init__(self, size_bytes: int, limit: int) -> None:
        super().__init__(f"the image has {size_bytes} bytes; the limit is {limit}")


class ImageTooManyPixels(InputRejected):
    code = "image_too_many_pixels"

    def __init__(self, width: int, height: int, limit: int) -> None:
        super().__init__(
            f"the image has {width} x {height} = {width * height} pixels; the limit is {limit}"
        )


class TextUnreadable(InputRejected):
    """No token in it, or no Unicode."""

    code = "text_unreadable"


class TextTooLong(InputRejected):
    code = "text_too_long"

    def __init__(self, characters: int, limit: int) -> None:
        super().__init__(f"the text has {characters} characters; the limit is {limit}")


class Base64Invalid(InputRejected):
    code = "base64_invalid"

    def __init__(self) -> None:
        super().__init__("the image is not valid base64 (RFC 4648, with padding, no line breaks)")


class WrongModality(InputRejected):
    code = "wrong_modality"

    def __init__(self, got: Modality, model: str, wanted: Modality) -> None:
        super().__init__(f"the input is {_ARTICLE[got]}; {model} reads {_ARTICLE[wanted]}")


class InferenceFailed(InputFailed):
    code = "inference_failed"

    def __init__(self) -> None:
        super().__init__("the model failed on this input; the service log has the cause")


class ScoreNotFinite(InputFailed):
    code = "score_not_finite"

    def __init__(self, output: str) -> None:
        super().__init__(f"the model gives NaN or infinity for {output} on this input")


class Overloaded(Unavailable):
    """The service holds all the work it may; `retry_after_seconds` is when to come back."""

    code = "overloaded"

    def __init__(self, held: float, unit: str, limit: float, retry_after_seconds: int) -> None:
        super().__init__(f"{held:g} {unit} are waiting or being answered; the limit is {limit:g}")
        self.retry_after_seconds = retry_after_seconds


class DetectorUnavailable(Unavailable):
    """A graph on demand could not be opened, or failed its golden check; others are served."""

    code = "detector_unavailable"

    def __init__(self, graph: str, retry_after_seconds: int) -> None:
        super().__init__(
            f"the detectors of {graph} cannot be served: it could not be opened or does not "
            "reproduce its golden outputs; the service log has the cause.  The next attempt is "
            f"due in {retry_after_seconds} s; all other detectors are served"
        )
        self.retry_after_seconds = retry_after_seconds


class NotReady(Unavailable):
    code = "not_ready"

    def __init__(self) -> None:
        super().__init__("the models are being loaded")


class ShuttingDown(Unavailable):
    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("the service is shutting down")


class DeadlinePassed(Unavailable):
    code = "deadline_passed"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within the {seconds:g} s this request may take")
