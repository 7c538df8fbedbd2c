"""The application behind a real uvicorn on a free loopback port."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from service.app import create_app
from service.runtime import Runtime
from service.server import server_config
from service.settings import Settings


@dataclass
class LiveServer:
    url: str
    runtime: Runtime
    client: httpx.Client


@contextmanager
def live_server(models_dir: Path, **settings: Any) -> Generator[LiveServer]:
    given = Settings(models_dir=models_dir, port=0, **settings)
    app = create_app(given)
    server = uvicorn.Server(server_config(app, given))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        _wait(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        runtime: Runtime = app.state.runtime
        _wait(lambda: runtime.repository is not None)
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            yield LiveServer(url, runtime, client)
    finally:
        server.should_exit = True
        thread.join()


def _wait(condition: Any) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)
