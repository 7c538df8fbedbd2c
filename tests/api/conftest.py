"""One server for all tests that need no settings of their own."""

from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer, live_server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """ScoreClient goes through the proxy of its environment; none stands before loopback."""
    for scheme in ("http", "all"):
        for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def server(models_dir: Path) -> Generator[LiveServer]:
    with live_server(models_dir, default_image_model="tiny") as running:
        yield running


@pytest.fixture
def client(server: LiveServer) -> httpx.Client:
    return server.client
