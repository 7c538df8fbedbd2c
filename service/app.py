"""create_app: the application for one set of settings.  Nothing happens at import."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware.cors import CORSMiddleware

from service import http_errors, openapi
from service.auth import Gate, RateLimit
from service.key_watch import KeyWatch
from service.logs import fields
from service.metrics import Metrics
from service.middleware import RequestContext
from service.routes import (
    calibration,
    captures,
    documentation,
    drift,
    models,
    page,
    probes,
    reload,
    score,
    v2,
    v2_infer,
)
from service.runtime import Runtime
from service.settings import Settings
from service.shortcut import ScoreShortcut

logger = logging.getLogger(__name__)

OnFailure = Callable[[Exception], None]
_DOCUMENTING = threading.Lock()


class _Documented(FastAPI):
    """With an OpenAPI document that says how this service refuses."""

    def openapi(self) -> dict[str, Any]:
        """Takes a quarter of a second the first time: for a thread."""
        with _DOCUMENTING:
            made = self.openapi_schema is not None
            document = super().openapi()
            if not made:
                openapi.complete(document)
            return document


def create_app(
    settings: Settings,
    on_failure: OnFailure | None = None,
    on_ready: Callable[[], None] | None = None,
) -> FastAPI:
    """The bundles are loaded in a thread once the application starts; /readyz tells when.

    `on_failure` hears of the exception (BundleError, ProviderUnavailable, UnknownModel, ...)
    that makes starting impossible; the service never becomes ready after it.  `on_ready` is called
    once what it serves first is loaded.
    """
    metrics = Metrics(CollectorRegistry())
    runtime = Runtime(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        app.state.loading = asyncio.create_task(_load(runtime, on_failure, on_ready))
        try:
            yield
        finally:
            await app.state.loading
            await runtime.reloader.stop()
            await asyncio.to_thread(runtime.close)

    app = _Documented(
        title="oodscore",
        summary="Does the classifier know this input?",
        version=installed_version("oodscore"),
        lifespan=lifespan,
        # FastAPI's own pages load scripts from elsewhere; routes/documentation.py does not
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.runtime = runtime
    app.state.gate = _gate(settings, metrics)
    app.add_middleware(ScoreShortcut, route=score.route())
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **_cross_origin(settings.cors_origins))
    # the last one added is the outermost
    app.add_middleware(RequestContext, runtime=runtime)
    http_errors.install(app)
    for routes in (
        score,
        v2,
        v2_infer,
        models,
        calibration,
        reload,
        drift,
        captures,
        probes,
        page,
        documentation,
    ):
        app.include_router(routes.router)
    return app


def _cross_origin(origins: Collection[str]) -> dict[str, Any]:
    """Pages of these origins may ask and read; there are no cookies to send along."""
    return {
        "allow_origins": sorted(origins),
        "allow_methods": ["GET", "POST"],
        "allow_headers": [
            "Authorization",
            "Content-Type",
            "X-API-Key",
            "X-Request-Id",
            "X-Request-Timeout",
        ],
        "expose_headers": ["Retry-After", "Server-Timing", "X-Request-Id"],
    }


def _gate(settings: Settings, metrics: Metrics) -> Gate:
    rate, path = settings.key_requests_per_second, settings.api_keys_file
    limit = None if rate is None else RateLimit(rate, settings.key_burst)
    watch = None if path is None else KeyWatch(path, settings.api_keys)
    return Gate(settings.keys, limit, metrics, watch)


async def _load(
    runtime: Runtime, on_failure: OnFailure | None, on_ready: Callable[[], None] | None
) -> None:
    try:
        await asyncio.to_thread(runtime.reloader.folder.open, runtime.serve)
    except Exception as exc:
        logger.critical("cannot start: %s", exc)
        if on_failure is not None:
            on_failure(exc)
        return
    logger.info("ready", extra=fields(default_models=runtime.require_repository().defaults))
    if on_ready is not None:
        on_ready()
    runtime.reloader.start()
