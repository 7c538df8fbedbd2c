"""POST /score past the router: dozens of calls for a path that is known.

The route stays in the application, for the OpenAPI document and for every other method; who comes
this way meets the same handler and the same answers to refusals.
"""

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ServiceError
from service.http_errors import refusal
from service.routes.score import PlainRoute


class ScoreShortcut:
    """To be the innermost middleware."""

    def __init__(self, app: ASGIApp, route: PlainRoute) -> None:
        self._app = app
        self._route = route
        self._handle = route.get_route_handler()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        here = scope["type"] == "http" and scope["path"] == self._route.path
        if not here or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        request = Request(scope, receive, send)
        try:
            response = await self._handle(request)
        except ServiceError as exc:
            response = refusal(request, exc)
        await response(scope, receive, send)
