"""Fixtures shared by all tests.  `tiny_bundle` builds the bundle; see there."""

import os
from pathlib import Path

import pytest
from tiny_bundle import publish_tiny_bundle


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the caller's shell reaches a test."""
    for name in list(os.environ):
        if name.startswith("OODSCORE_") and name != "OODSCORE_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: tiny/1, tiny/2 and other/1 (with a gradient detector).  Read only."""
    repository = tmp_path_factory.mktemp("models")
    publish_tiny_bundle(repository, "tiny", "1", seed=1)
    publish_tiny_bundle(repository, "tiny", "2", seed=2)
    publish_tiny_bundle(repository, "other", "1", seed=3, gradient=True)
    return repository
