"""The Open Inference Protocol, version 2, with its binary tensor data extension.

schemas    the JSON of requests and answers
tensors    tensors of the wire -> inputs
requests   a body -> what is asked
outputs    answers -> tensors, and those into a body
metadata   what the server and a model say of themselves
"""

from service.open_inference.metadata import model_metadata, server_metadata
from service.open_inference.outputs import (
    EncodedAnswer,
    check_outputs,
    encode_answers,
    refuse_failures,
)
from service.open_inference.requests import InferRequest, detectors_to_run, parse_infer
from service.open_inference.schemas import (
    InferAnswer,
    InferBody,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    V2Error,
)

__all__ = [
    "EncodedAnswer",
    "InferAnswer",
    "InferBody",
    "InferRequest",
    "ModelMetadata",
    "ModelReady",
    "ServerLive",
    "ServerMetadata",
    "ServerReady",
    "V2Error",
    "check_outputs",
    "detectors_to_run",
    "encode_answers",
    "model_metadata",
    "parse_infer",
    "refuse_failures",
    "server_metadata",
]
