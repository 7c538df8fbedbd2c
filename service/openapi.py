"""The OpenAPI document, completed: what FastAPI says of refusals is not what this service does.

Refusals are problem documents, under /v2 the protocol's own errors; a parameter that cannot be
read is refused with 400; whatever wants a key may refuse it.
"""

from typing import Any

from service.http_errors import PROBLEM_JSON, is_open_inference

_JSON = "application/json"
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_V2_ERROR = {"$ref": "#/components/schemas/V2Error"}
_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")
_METHODS = frozenset({"get", "post", "put", "delete", "patch", "head", "options"})
_OF_KEYS = {
    "401": "This service wants an API key, and knows none such.",
    "403": "The API key lacks the scope this asks for.",
    "429": "The API key made its requests for now; Retry-After tells when to come back.",
}


def complete(document: dict[str, Any]) -> None:
    """Changes the document that FastAPI has made."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in _METHODS:
                _complete_operation(operation, open_inference=is_open_inference(path))
    for name in _FASTAPIS_OWN:
        document["components"]["schemas"].pop(name, None)


def _complete_operation(operation: dict[str, Any], *, open_inference: bool) -> None:
    responses: dict[str, Any] = operation["responses"]
    media_type = _JSON if open_inference else PROBLEM_JSON
    refusal = {media_type: {"schema": _V2_ERROR if open_inference else _PROBLEM}}
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
        responses.setdefault("400", {"description": "A parameter that cannot be read."})
    if "security" in operation:
        for status, text in _OF_KEYS.items():
            responses.setdefault(status, {"description": text})
    responses.setdefault("500", {"description": "An error of the service; its log has the cause."})
    for status, response in responses.items():
        if status >= "400":
            response["content"] = refusal
    operation["responses"] = dict(sorted(responses.items()))
