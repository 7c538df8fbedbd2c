"""One server for all tests that need no settings of their own."""

from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from live_server import LiveServer, live_server
from tiny_bundle import publish_tiny_bundle
from tiny_text_bundle import publish_tiny_text_bundle


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


@pytest.fixture(scope="session")
def mixed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of both modalities: tiny/1 reads images, words/1 texts.  Read only."""
    repository = tmp_path_factory.mktemp("mixed")
    publish_tiny_bundle(repository, "tiny", "1", seed=1)
    publish_tiny_text_bundle(repository, "words", "1")
    return repository


@pytest.fixture(scope="session")
def mixed(mixed_dir: Path) -> Generator[LiveServer]:
    with live_server(mixed_dir) as running:
        yield running
