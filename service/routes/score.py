"""POST /score."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import lru_cache, partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service.auth import KEY, require_key
from service.errors import (
    ContentEncodingUnsupported,
    DeadlinePassed,
    InvalidParameter,
    ServiceError,
    told,
)
from service.metrics import STAGES
from service.request_bodies import parse_body, read_body, with_parameters
from service.responses import response_body
from service.routes.dependencies import repository_of, runtime_of
from service.routes.score_openapi import DESCRIPTION, REQUEST, RESPONSES
from service.schemas import ScoreParameters, ScoreResponse, describe_problems
from service.scoring import Deadline, Scored


class PlainRoute(APIRoute):
    """Hands its endpoint the request and nothing else, if the caller's key allows to score.

    FastAPI's own parameters, dependencies and body handling would double the cost of a small
    request; the route keeps its place in the OpenAPI document.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Request) -> Response:
            await require_key(request)
            return await self.endpoint(request)

        return handle


# KEY documents what PlainRoute does
router = APIRouter(tags=["scoring"], route_class=PlainRoute, dependencies=KEY)

_TIMEOUT_HEADER = "x-request-timeout"
# larger bodies are taken apart in a thread, smaller ones where they are
_PARSE_INLINE_BYTES = 64 * 1024


@router.post(
    "/score",
    description=DESCRIPTION,
    responses=RESPONSES,
    openapi_extra=REQUEST,
    response_model=ScoreResponse,
)
async def score(request: Request) -> Response:
    """Is it something the model knows?"""
    runtime, repository = await runtime_of(request), await repository_of(request)
    parameters = _parameters(request)
    deadline = deadline_of(request, runtime.settings.request_timeout_seconds)
    encoding = request.headers.get("content-encoding", "")
    if encoding.strip().lower() not in ("", "identity"):
        raise ContentEncodingUnsupported(encoding, ("the body as it is",))
    with runtime.body_slot() as slot:
        body = await read_in_time(request, runtime.body_limits.max_body_bytes, deadline)
        arguments = (request.headers.get("content-type", ""), body, runtime.body_limits)
        if len(body) > _PARSE_INLINE_BYTES:
            parsed = await asyncio.to_thread(parse_body, *arguments)
        else:
            parsed = parse_body(*arguments)
        asked = with_parameters(parsed, parameters)
        name = repository.default(asked.modality) if asked.model is None else asked.model
        bundle = repository.get(name, asked.version)
        plan = bundle.plan(asked.detectors, asked.id_acceptance)
        scored = await runtime.score(
            bundle, asked.inputs, plan, deadline, body=slot, gone=partial(gone, request)
        )
    timing = {"Server-Timing": server_timing(scored)}
    if len(scored.answers) == 1 and isinstance(scored.answers[0], ServiceError):
        request.state.answer_headers = timing  # for the handler of the error
        raise scored.answers[0]
    return Response(
        response_body(bundle, scored.answers),
        media_type="application/json",
        headers=timing,
    )


def route() -> PlainRoute:
    """The one above."""
    (only,) = (known for known in router.routes if isinstance(known, PlainRoute))
    return only


async def gone(request: Request) -> Exception:
    """Returns once the caller has closed its connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return ClientDisconnect()


def _parameters(request: Request) -> ScoreParameters:
    """Raises InvalidParameter."""
    return _parameters_in(request.scope["query_string"])


@lru_cache(maxsize=64)  # callers ask for the same again and again; a head has 64 KiB at most
def _parameters_in(query: bytes) -> ScoreParameters:
    given = QueryParams(query)
    counts = Counter(name for name, _ in given.multi_items())
    if repeated := [name for name, times in counts.items() if times > 1]:
        raise InvalidParameter(f"{', '.join(repeated)}: given more than once in the query")
    try:
        return ScoreParameters.model_validate(dict(given))
    except ValidationError as exc:
        raise InvalidParameter(describe_problems(exc.errors())) from exc


async def read_in_time(request: Request, max_body_bytes: int, deadline: Deadline) -> bytes:
    """A client that sends slowly holds its place no longer than a request may take.

    Raises BodyTooLarge, DeadlinePassed.
    """
    try:
        async with asyncio.timeout(deadline.remaining_seconds):
            return await read_body(request, max_body_bytes)
    except TimeoutError as exc:
        raise DeadlinePassed(deadline.seconds) from exc


def deadline_of(request: Request, longest_seconds: float) -> Deadline:
    """The caller may shorten the service's own limit, never stretch it."""
    asked = request.headers.get(_TIMEOUT_HEADER)
    if asked is None:
        return Deadline.after(longest_seconds)
    try:
        seconds = float(asked)
    except ValueError:
        seconds = -1.0
    if not seconds > 0:  # refuses NaN too
        raise InvalidParameter(
            f"X-Request-Timeout is {told(asked)}; it is a number of seconds above 0"
        )
    return Deadline.after(min(seconds, longest_seconds))


def server_timing(scored: Scored) -> str:
    """Every stage, 0 where nothing was done: who reads it need not ask which are there."""
    return ", ".join(
        f"{stage};dur={scored.stage_seconds.get(stage, 0.0) * 1000:.3f}" for stage in STAGES
    )
