"""The documentation of the inference routes, with an example that works where images are served."""

from typing import Any

from service.open_inference import InferBody, V2Error

DESCRIPTION = """
Input, one tensor: `pixels` (UINT8, `[N, height, width, channels]`) or `images` (BYTES, encoded
files; in JSON as base64) of an image model, `texts` (BYTES) of a text model.

Outputs, those asked for, else all but `error`: `decision`, `label`, `label_index`, `confidence`,
`detector`, `score`, `threshold`, `p_value`, of texts `truncated`, and of each detector
`score/<detector>`, `threshold/<detector>`, `p_value/<detector>`, `decision/<detector>`. Asking for
an output of a detector runs it. One input that cannot be scored refuses the request, unless
`error` is asked for: that holds its code then, and its other outputs are empty, -1 or NaN (`null`).

Parameters: `detectors` (comma separated, the first one decides), `id_acceptance`, `timeout`
(microseconds), `binary_data_output`.

Tensors may stand behind the JSON (the binary tensor data extension): header
`Inference-Header-Content-Length` is the size of the JSON, 0 a body that is one element by itself.
"""
_ERROR: dict[str, Any] = {"model": V2Error}
UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: _ERROR | {"description": "Unknown model or version."},
    503: _ERROR | {"description": "The models are being loaded."},
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: _ERROR | {"description": "Malformed, or parameters or tensors nobody knows."},
    404: _ERROR | {"description": "Unknown model or version."},
    413: _ERROR | {"description": "Too many bytes, pixels, inputs, characters or elements."},
    415: _ERROR | {"description": "Content encoding that is not read."},
    422: _ERROR | {"description": "A tensor or input that cannot be scored."},
    429: _ERROR | {"description": "Too many requests; come back after Retry-After seconds."},
    503: _ERROR | {"description": "Being loaded, shutting down, or without that detector."},
    504: _ERROR | {"description": "The deadline passed."},
}


def _json_schema() -> dict[str, Any]:
    """InferBody without references: this part of the document is not FastAPI's."""
    schema = InferBody.model_json_schema()
    definitions = schema.pop("$defs")
    schema["properties"]["inputs"]["items"] = definitions["InputTensor"]
    schema["properties"]["outputs"]["items"] = definitions["RequestedOutput"]
    return schema


_GREY = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 1], "data": [0, 255, 255, 0]}
_STRING: dict[str, Any] = {"type": "string"}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _STRING}


REQUEST: dict[str, Any] = {
    "parameters": [
        _in_path("name"),
        {"name": "Inference-Header-Content-Length", "in": "header", "schema": {"type": "integer"}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _json_schema(),
                "examples": {
                    "one image": {"value": {"inputs": [_GREY]}},
                    "decisions only": {
                        "value": {
                            "inputs": [_GREY],
                            "outputs": [{"name": "decision"}, {"name": "p_value"}],
                            "parameters": {"id_acceptance": 0.9},
                        }
                    },
                },
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
REQUEST_OF_VERSION = REQUEST | {"parameters": [*REQUEST["parameters"], _in_path("version")]}
