"""docs/api-reference.md: what is public is what it says, and its examples print what it prints."""

import ast
import inspect
import re
import shutil
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, live_server

from benchmarks.api_reference import PAGE, PUBLIC, filled

ROOT = Path(__file__).parents[2]
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\nprints\n\n```text\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    """Serves two of the shipped bundles."""
    models = tmp_path_factory.mktemp("models")
    for name in ("clinc150", "fashion-mnist"):
        shutil.copytree(ROOT / "models" / name, models / name)
    with live_server(models) as running:
        yield running


def test_the_reference_is_that_of_the_source() -> None:
    assert filled(TEXT) == TEXT, "run python -m benchmarks.api_reference"


def test_every_example_prints_what_the_page_says(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, as a reader would who types them into one session."""
    monkeypatch.chdir(ROOT)
    assert len(EXAMPLES) == len(re.findall("```python", TEXT)) == 6
    session: dict[str, Any] = {}
    for code, expected in EXAMPLES:
        exec(code.replace("http://127.0.0.1:8000", server.url), session)  # noqa: S102
        printed = capsys.readouterr().out
        pattern = re.escape(expected).replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern, printed), printed


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_public_is_described(module: str) -> None:
    """Every name and every public method has a docstring, but for what says itself."""
    package = import_module(module)
    for name in PUBLIC[module]:
        made = getattr(package, name)
        assert inspect.getdoc(made), name
        assert f"#### `{name}`" in TEXT


def test_all_that_the_client_exports_is_listed() -> None:
    client = import_module("service.client")
    assert set(client.__all__) == set(PUBLIC["service.client"])


def test_the_examples_import_public_names_alone() -> None:
    for code, _ in EXAMPLES:
        for node in ast.walk(ast.parse(code)):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            if node.module.split(".")[0] not in ("service", "training"):
                continue
            names = {alias.name for alias in node.names}
            constants = {name for name in names if name.isupper()}
            assert names - constants <= set(PUBLIC[node.module]), node.module
