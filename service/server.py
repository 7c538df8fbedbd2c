"""uvicorn with an orderly end: unready first, then no new connections, then the rest."""

import asyncio
import gc
import logging
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.early_refusal import EarlyRefusal
from service.logs import configure_logging
from service.protocol import with_patience
from service.runtime import Runtime
from service.settings import Settings, unknown_variables

logger = logging.getLogger(__name__)


class AddressUnusable(Exception):
    """Nobody can be heard there: it is taken, of another machine, or not allowed."""

    def __init__(self, settings: Settings, cause: BaseException | None) -> None:
        super().__init__(
            f"cannot listen on {settings.host}, port {settings.port}: {cause}; "
            "set OODSCORE_HOST and OODSCORE_PORT"
        )


class DrainingServer(uvicorn.Server):
    """First SIGTERM or SIGINT: /readyz says 503 while requests are still taken for `delay`;
    then the sockets close and accepted requests finish.  A second one skips the delay."""

    def __init__(self, config: uvicorn.Config, runtime: Runtime, delay_seconds: float) -> None:
        super().__init__(config)
        self._runtime = runtime
        self._delay_seconds = delay_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again at its end and so lose the exit status 0
        if self._loop is None or self._runtime.draining:
            self.should_exit = True
            return
        self._runtime.draining = True
        logger.info("shutting down in %g s", self._delay_seconds)
        self._loop.call_soon_threadsafe(
            self._loop.call_later, self._delay_seconds, self._stop_accepting
        )

    def _stop_accepting(self) -> None:
        self.should_exit = True


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The tested settings of the server."""
    refusal = EarlyRefusal(app.state.runtime)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a request came from
        http=with_patience(settings.client_patience_seconds, refusal.answer),
        ws="none",
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=cast(int, settings.shutdown_grace_seconds),
    )


def _spare_the_collector() -> None:
    """Full collections of cycles hold up everybody for a tenth of a second.

    What is there when the service is ready stays, so they need not look through it; and they come
    when half a million objects may be garbage, not seventy thousand: connections leave most of it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 25)


def serve(settings: Settings) -> Exception | None:
    """Serve until a signal.  Returns what made starting impossible, None after a clean end."""
    configure_logging(settings.log_level)
    for name in unknown_variables():
        logger.warning("%s is no setting, and ignored", name)
    failures: list[Exception] = []

    def on_failure(exc: Exception) -> None:
        failures.append(exc)
        server.should_exit = True

    app = create_app(settings, on_failure, _spare_the_collector)
    config = server_config(app, settings)
    server = DrainingServer(config, app.state.runtime, settings.shutdown_delay_seconds)
    try:
        server.run()
    except SystemExit as exc:  # uvicorn's, in place of the OSError it met
        return AddressUnusable(settings, exc.__context__)
    return failures[0] if failures else None
