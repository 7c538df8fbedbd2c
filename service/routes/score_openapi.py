"""The documentation of POST /score, with examples that work wherever the modality is served."""

from typing import Any

from service.decoding import CONTENT_TYPES as IMAGE_TYPES
from service.request_bodies import JSON, MULTIPART, NPY, TEXT
from service.schemas import Problem, ScoreBody, ScoreParameters

DESCRIPTION = """
Says for each image or text whether the model knows it (`ID`) or not (`OOD`), with the label, the
deciding score and every detector's score. Higher score = more OOD; `OOD` is score > threshold.

One model answers: the one named, else the default of the inputs' modality.

A request with one input succeeds or is refused. A request with several answers 200 with one
entry per input, in order; an input that could not be scored carries `error` instead of a decision.

Header `X-Request-Timeout` (seconds) shortens the time the request may take; `X-Request-Id` is
echoed. `Server-Timing` tells the milliseconds of each stage.
"""

# a 1 x 1 grey PNG
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
_TEXT = "my card was declined, what can i do"


def _json_schema() -> dict[str, Any]:
    """ScoreBody without references: this part of the document is not FastAPI's."""
    schema = ScoreBody.model_json_schema()
    schema["properties"]["inputs"]["items"] = schema.pop("$defs")["InputItem"]
    return schema


def _query_parameters() -> list[dict[str, Any]]:
    schema = ScoreParameters.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": field.pop("description"),
            "schema": field,
        }
        for name, field in schema.items()
    ]


REQUEST: dict[str, Any] = {
    "parameters": _query_parameters(),
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": _json_schema(),
                "examples": {
                    "one image": {"value": {"inputs": [{"image": _PNG}]}},
                    "two images, another acceptance": {
                        "value": {
                            "inputs": [{"image": _PNG}, {"image": _PNG}],
                            "id_acceptance": 0.9,
                        }
                    },
                    "one text": {"value": {"inputs": [{"text": _TEXT}]}},
                    "two texts": {
                        "value": {"inputs": [{"text": _TEXT}, {"text": "who wrote faust"}]}
                    },
                },
            },
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        },
                        "text": {"type": "array", "items": {"type": "string"}},
                    },
                }
            },
            TEXT: {"schema": {"type": "string", "description": "UTF-8"}, "example": _TEXT},
            **{
                image_type: {"schema": {"type": "string", "format": "binary"}}
                for image_type in IMAGE_TYPES
            },
            NPY: {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "numpy.save of uint8 (N, H, W, C), or (N, H, W); W not 1, 3, 4",
                }
            },
        },
    },
}
_REFUSALS = {
    400: "Malformed request, invalid parameter, unknown detector, unreachable id_acceptance, or "
    "images and texts to no named model.",
    401: "This service wants an API key, and knows none such.",
    403: "The API key lacks the scope `score`.",
    404: "Unknown model or version.",
    413: "Body, image, text or number of inputs too large.",
    415: "Content type or content encoding not accepted.",
    422: "The only input cannot be decoded, or is not what the model reads; or no model of its "
    "kind is served.",
    429: "The queue is full, or the API key made its requests for now; Retry-After tells when to "
    "come back.",
    500: "The model failed on the only input.",
    503: "The models are being loaded, the service ended before the answer, or a detector on "
    "demand cannot be served.",
    504: "The deadline passed.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
    for status, text in _REFUSALS.items()
}
