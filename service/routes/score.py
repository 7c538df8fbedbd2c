"""POST /score."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.decision import make_plan
from service.errors import InvalidParameter, ServiceError
from service.request_bodies import parse_body, read_body, with_parameters
from service.responses import to_response
from service.routes.dependencies import RepositoryOf, RuntimeOf
from service.routes.score_openapi import DESCRIPTION, REQUEST_BODY, RESPONSES
from service.schemas import ScoreParameters, ScoreResponse
from service.scoring import Deadline, Scored

router = APIRouter(tags=["scoring"])

_TIMEOUT_HEADER = "x-request-timeout"
# larger bodies are taken apart in a thread, smaller ones where they are
_PARSE_INLINE_BYTES = 64 * 1024


@router.post(
    "/score",
    description=DESCRIPTION,
    responses=RESPONSES,
    openapi_extra=REQUEST_BODY,
    response_model=ScoreResponse,
)
async def score(
    request: Request,
    parameters: Annotated[ScoreParameters, Query()],
    runtime: RuntimeOf,
    repository: RepositoryOf,
) -> Response:
    """Is it something the model knows?"""
    deadline = _deadline(request, runtime.settings.request_timeout_seconds)
    with runtime.body_slot():
        body = await read_body(request, runtime.body_limits.max_body_bytes)
        arguments = (request.headers.get("content-type", ""), body, runtime.body_limits)
        if len(body) > _PARSE_INLINE_BYTES:
            parsed = await asyncio.to_thread(parse_body, *arguments)
        else:
            parsed = parse_body(*arguments)
        asked = with_parameters(parsed, parameters)
        bundle = repository.get(asked.model, asked.version)
        plan = make_plan(bundle.manifest, bundle.calibration, asked.detectors, asked.id_acceptance)
        scored = await runtime.score(bundle, asked.inputs, plan, deadline)
    if len(scored.answers) == 1 and isinstance(scored.answers[0], ServiceError):
        raise scored.answers[0]
    return Response(
        to_response(bundle, scored.answers).model_dump_json(),
        media_type="application/json",
        headers={"Server-Timing": _server_timing(scored)},
    )


def _deadline(request: Request, longest_seconds: float) -> Deadline:
    """The caller may shorten the service's own limit, never stretch it."""
    asked = request.headers.get(_TIMEOUT_HEADER)
    if asked is None:
        return Deadline.after(longest_seconds)
    try:
        seconds = float(asked)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:  # refuses NaN too
        raise InvalidParameter(f"X-Request-Timeout is {asked!r}; it is a number of seconds above 0")
    return Deadline.after(min(seconds, longest_seconds))


def _server_timing(scored: Scored) -> str:
    return ", ".join(
        f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in scored.stage_seconds.items()
    )
