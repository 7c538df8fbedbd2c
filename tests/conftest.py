"""Fixtures shared by all tests.  `tiny_bundle` builds the bundle; see there."""

import logging
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from tiny_bundle import publish_tiny_bundle

from service.logs import JsonFormatter


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith("OODSCORE_") and name != "OODSCORE_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logging() -> Generator[None]:
    """A command run in this process leaves no handler behind on a stream that is closed."""
    root = logging.getLogger()
    level = root.level
    yield
    root.handlers[:] = [h for h in root.handlers if not isinstance(h.formatter, JsonFormatter)]
    root.setLevel(level)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: tiny/1, tiny/2 and other/1 (with a gradient detector).  Read only."""
    repository = tmp_path_factory.mktemp("models")
    publish_tiny_bundle(repository, "tiny", "1", seed=1)
    publish_tiny_bundle(repository, "tiny", "2", seed=2)
    publish_tiny_bundle(repository, "other", "1", seed=3, gradient=True)
    return repository
