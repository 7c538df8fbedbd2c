"""The refusal of POST /score while the service is full, before anything is spent on the request.

Whoever is full of work has none left for saying so: here no body is kept, no task is made, no line
is logged for each.  The answer is the one the application would give, but that it is the same for
whoever asks, with or without a key.
"""

import logging
import time
from collections.abc import Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import Overloaded
from service.http_errors import service_error_response
from service.logs import fields, request_id
from service.middleware import identity_of
from service.runtime import Runtime
from service.security_headers import add_defaults

logger = logging.getLogger(__name__)

RawHeaders = Sequence[tuple[bytes, bytes]]
_PATH = "/score"
_RAW_PATH = _PATH.encode()
_REMAKE_SECONDS = 0.05  # how old what it says of the queue may be
_LOG_SECONDS = 10.0
_ANY_ID = "-" * 32


class EarlyRefusal:
    """Event loop only."""

    def __init__(self, runtime: Runtime) -> None:
        metrics = runtime.metrics
        self._runtime = runtime
        self._requests = metrics.requests.labels(_PATH, "429")
        self._seconds = metrics.request_seconds.labels(_PATH)
        self._rejected = metrics.rejected_requests.labels("overloaded")
        self._across_origins = bool(runtime.settings.cors_origins)
        self._head, self._body = b"", (b"", b"")
        self._made = -_REMAKE_SECONDS
        self._unlogged = 0
        self._logged = -_LOG_SECONDS

    def answer(self, method: bytes, url: bytes, headers: RawHeaders) -> bytes | None:
        """The whole response; None where the request may go on.  Header names in small letters."""
        if method != b"POST" or url.partition(b"?")[0] != _RAW_PATH:
            return None
        overloaded = self._runtime.overloaded()
        if overloaded is None:
            return None
        started = time.perf_counter()
        given = b""
        length: int | None = None
        for name, value in headers:
            if name == b"x-request-id":
                given = value
            elif name == b"content-length" and value.isdigit():
                length = int(value)
            elif name == b"origin" and self._across_origins:
                return None  # needs headers of its own
        # what has no length, or is longer than what is read, is the application's to refuse
        if length is None or length > self._runtime.body_limits.max_body_bytes:
            return None
        if started - self._made > _REMAKE_SECONDS:
            self._remake(overloaded)
            self._made = started
        identity = identity_of(given.decode("latin-1")).encode()
        body = identity.join(self._body)
        self._count(started)
        return b"%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b" % (
            self._head,
            len(body),
            identity,
            body,
        )

    def _remake(self, overloaded: Overloaded) -> None:
        token = request_id.set(_ANY_ID)
        response = service_error_response(overloaded, _PATH)
        request_id.reset(token)
        headers = [pair for pair in response.raw_headers if pair[0] != b"content-length"]
        if self._across_origins:
            headers.append((b"vary", b"Origin"))
        add_defaults(headers)
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        self._head = STATUS_LINE[response.status_code] + lines
        before, _, after = bytes(response.body).partition(_ANY_ID.encode())
        self._body = (before, after)

    def _count(self, started: float) -> None:
        self._requests.inc()
        self._rejected.inc()
        now = time.perf_counter()
        self._seconds.observe(now - started)
        self._unlogged += 1
        if now - self._logged > _LOG_SECONDS:
            logger.warning("full; requests are refused", extra=fields(refused=self._unlogged))
            self._unlogged, self._logged = 0, now
