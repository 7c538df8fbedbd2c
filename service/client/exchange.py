"""One request until it is answered, without input or output of its own.

A flow is a generator: it yields what is to be done (`Send`, `Wait`), is sent what came of it, and
returns its result.  The two clients differ only in how they do these things.
"""

import itertools
import math
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from service.client.errors import ClientError, NoAnswerInTime, ServiceRefused, ServiceUnreachable
from service.client.options import RequestSize, Retries
from service.schemas import Problem

_TRIED_AGAIN = frozenset({429, 503})
# the connection, not the request, was at fault; scoring twice changes nothing
_BROKEN_CONNECTION = (
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
    httpx.ConnectTimeout,
)
_TOLD_CHARACTERS = 200

Files = list[tuple[str, tuple[str, bytes]]]


@dataclass(frozen=True)
class Call:
    """One HTTP request, which can be sent any number of times."""

    method: str
    path: str
    query: Mapping[str, str | float]
    content: bytes | None = None
    content_type: str | None = None
    files: Files | None = None


@dataclass(frozen=True)
class Send:
    call: Call
    timeout_seconds: float


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Reply:
    status: int
    headers: httpx.Headers
    body: bytes


@dataclass(frozen=True)
class Terms:
    """What holds for every request of a client.  `url` is for messages."""

    url: str
    timeout_seconds: float
    retries: Retries
    size: RequestSize


Step = Send | Wait
Outcome = Reply | httpx.HTTPError | httpx.InvalidURL | None
_T = TypeVar("_T")
_Model = TypeVar("_Model", bound=BaseModel)
Flow = Generator[Step, Outcome, _T]


def exchange(call: Call, terms: Terms) -> Flow[Reply]:
    """A successful reply.  Raises ServiceRefused, ServiceUnreachable, NoAnswerInTime.

    A wait that would outlast the time of the request is not begun: the refusal is told at once.
    """
    give_up_at = time.monotonic() + terms.timeout_seconds
    for attempt in itertools.count(1):
        outcome = yield Send(call, max(0.001, give_up_at - time.monotonic()))
        if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
            return outcome
        failure = _failure(outcome, terms)
        if attempt >= terms.retries.attempts or not _may_try_again(outcome):
            raise failure
        asked = failure.retry_after_seconds if isinstance(failure, ServiceRefused) else None
        seconds = terms.retries.wait_seconds(attempt, asked)
        if time.monotonic() + seconds >= give_up_at:
            raise failure
        yield Wait(seconds)
    raise AssertionError("itertools.count has no end")


def parsed(reply: Reply, kind: type[_Model], terms: Terms) -> _Model:
    """Raises ClientError."""
    try:
        return kind.model_validate_json(reply.body)
    except ValidationError as exc:
        raise ClientError(f"{terms.url} does not answer like oodscore: {exc}") from exc


def _may_try_again(outcome: Outcome) -> bool:
    if isinstance(outcome, Reply):
        return outcome.status in _TRIED_AGAIN
    return isinstance(outcome, _BROKEN_CONNECTION)


def _failure(outcome: Outcome, terms: Terms) -> ClientError:
    if isinstance(outcome, Reply):
        return _refusal(outcome)
    if isinstance(outcome, httpx.TimeoutException) and not isinstance(
        outcome, httpx.ConnectTimeout
    ):
        return NoAnswerInTime(terms.url, terms.timeout_seconds)
    return ServiceUnreachable(f"{terms.url}: {outcome or type(outcome).__name__}")


def _refusal(reply: Reply) -> ServiceRefused:
    wait = retry_after_seconds(reply.headers.get("retry-after"), datetime.now(UTC))
    try:
        problem = Problem.model_validate_json(reply.body)
    except ValidationError:
        text = reply.body[:_TOLD_CHARACTERS].decode(errors="replace")
        return ServiceRefused(reply.status, "unknown", text, wait)
    return ServiceRefused(reply.status, problem.code, problem.detail, wait)


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """The header as seconds from now, at least 0; None where it is absent or makes no sense."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
        return max(0.0, seconds)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
