"""The Open Inference Protocol: scoring.  Existing clients of it work unchanged."""

import asyncio
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.auth import KEY
from service.open_inference import (
    EncodedAnswer,
    InferAnswer,
    InferRequest,
    check_outputs,
    detectors_to_run,
    encode_answers,
    parse_infer,
    refuse_failures,
)
from service.routes.dependencies import repository_of, runtime_of
from service.routes.score import PlainRoute, deadline_of, gone, read_in_time, server_timing
from service.routes.v2_openapi import DESCRIPTION, ERRORS, REQUEST, REQUEST_OF_VERSION
from service.scoring import Deadline

router = APIRouter(tags=["open inference protocol"], route_class=PlainRoute, dependencies=KEY)

_HEADER_LENGTH = "Inference-Header-Content-Length"
# larger bodies are taken apart, and longer answers put together, in a thread
_PARSE_INLINE_BYTES = 64 * 1024
_ENCODE_INLINE_INPUTS = 16


@router.post(
    "/v2/models/{name}/infer",
    description=DESCRIPTION,
    responses=ERRORS,
    openapi_extra=REQUEST,
    response_model=InferAnswer,
)
async def infer(request: Request) -> Response:
    """Score inputs with a model's default version."""
    return await _infer(request, request.path_params["name"], None)


@router.post(
    "/v2/models/{name}/versions/{version}/infer",
    description=DESCRIPTION,
    responses=ERRORS,
    openapi_extra=REQUEST_OF_VERSION,
    response_model=InferAnswer,
)
async def infer_version(request: Request) -> Response:
    """Score inputs with one version."""
    return await _infer(request, request.path_params["name"], request.path_params["version"])


async def _infer(request: Request, name: str, version: str | None) -> Response:
    runtime, repository = await runtime_of(request), await repository_of(request)
    bundle = repository.get(name, version)
    deadline = deadline_of(request, runtime.settings.request_timeout_seconds)
    with runtime.body_slot() as slot:
        body = await read_in_time(request, runtime.body_limits.max_body_bytes, deadline)
        arguments = (
            body,
            request.headers.get(_HEADER_LENGTH),
            request.headers.get("content-encoding", ""),
            bundle.modality,
            runtime.body_limits,
        )
        if len(body) > _PARSE_INLINE_BYTES:
            asked = await asyncio.to_thread(parse_infer, *arguments)
        else:
            asked = parse_infer(*arguments)
        check_outputs(asked, bundle.manifest)
        plan = bundle.plan(detectors_to_run(asked, bundle.manifest), asked.id_acceptance)
        scored = await runtime.score(
            bundle,
            asked.inputs,
            plan,
            _sooner(deadline, asked),
            body=slot,
            gone=partial(gone, request),
        )
    timing = {"Server-Timing": server_timing(scored)}
    request.state.answer_headers = timing  # of an error, too
    refuse_failures(asked, scored.answers)
    encoding = (bundle, plan, asked, scored.answers)
    if len(scored.answers) > _ENCODE_INLINE_INPUTS:
        return _response(await asyncio.to_thread(encode_answers, *encoding), timing)
    return _response(encode_answers(*encoding), timing)


def _sooner(deadline: Deadline, asked: InferRequest) -> Deadline:
    """The body may shorten the time the request has, too."""
    if asked.timeout_seconds is None or asked.timeout_seconds >= deadline.remaining_seconds:
        return deadline
    return Deadline.after(asked.timeout_seconds)


def _response(answer: EncodedAnswer, timing: dict[str, str]) -> Response:
    if answer.json_size is None:
        return Response(answer.body, media_type="application/json", headers=timing)
    headers = timing | {_HEADER_LENGTH: str(answer.json_size)}
    return Response(answer.body, media_type="application/octet-stream", headers=headers)
