"""Around every request: its id, its metrics, its log line (never its body), the headers that hold
browsers back, and the answer of last resort."""

import asyncio
import logging
import re
import time
from secrets import token_hex

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ShuttingDown
from service.http_errors import internal_error_response, service_error_response
from service.logs import fields, request_id
from service.runtime import Runtime
from service.security_headers import add_defaults

logger = logging.getLogger("oodscore.access")

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UNMATCHED = "unmatched"
_QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
_CLIENT_LEFT = 499  # answered to nobody; counted so that it can be seen


def identity_of(given: str) -> str:
    """The id a request came with, if it is fit to be logged and sent back, or a new one."""
    return given if _SANE_ID.fullmatch(given) else token_hex(16)


class RequestContext:
    """Pure ASGI: sees disconnects and streams, buffers nothing."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._metrics = runtime.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = identity_of(Headers(scope=scope).get("x-request-id", ""))
        token = request_id.set(identity)
        status = 0
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                headers.append((b"x-request-id", identity.encode()))
                add_defaults(headers)
                if self._runtime.draining:
                    # whoever asks again on this connection would meet its end
                    headers.append((b"connection", b"close"))
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = _CLIENT_LEFT
        except asyncio.CancelledError:
            # uvicorn cancels what is still open when the grace of a shutdown ends; passed on,
            # it would become a 500 in plain text and a stack in the log
            logger.warning("cut off by the shutdown")
            if not status:
                error = ShuttingDown()
                self._metrics.rejected_requests.labels(error.code).inc()
                response = service_error_response(error, scope["path"])
                await response(scope, receive, send_with_headers)
        except Exception:
            logger.exception("unexpected error")
            if status:  # too late to say anything else
                raise
            response = internal_error_response(scope["path"])
            await response(scope, receive, send_with_headers)
        finally:
            self._metrics.in_flight.dec()
            self._record(scope, status or _CLIENT_LEFT, time.perf_counter() - started)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "request",
                extra=fields(
                    method=scope["method"],
                    route=route,
                    status=status,
                    milliseconds=round(seconds * 1000, 3),
                    **_key_of(scope),
                ),
            )


def _key_of(scope: Scope) -> dict[str, str]:
    """The name of the caller's key, where auth.py found one; never the key."""
    name = scope.get("state", {}).get("key_name")
    return {} if name is None else {"key": name}
