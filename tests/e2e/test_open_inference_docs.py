"""The examples of docs/http-api.md on the Open Inference Protocol, run as they stand."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from live_server import LiveServer, live_server

ROOT = Path(__file__).parents[2]
_, SECTION = (ROOT / "docs" / "http-api.md").read_text().split("## Open Inference Protocol\n")
SECTION = SECTION.partition("\n## ")[0]
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
(SCRIPT,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
ADDRESS = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    models = tmp_path_factory.mktemp("shipped")
    for name in ("clinc150", "fashion-mnist"):
        (models / name).symlink_to(ROOT / "models" / name)
    with live_server(models) as running:
        yield running


def address(running: LiveServer) -> str:
    return running.url.removeprefix("http://")


def run(command: list[str]) -> bytes:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout


def test_commands(shipped: LiveServer) -> None:
    metadata, text, image = [
        run(["curl", "--fail", "--noproxy", "*", *shlex.split(line)[1:]])
        for line in COMMANDS.replace(ADDRESS, address(shipped)).splitlines()
    ]
    assert json.loads(metadata)["inputs"][0]["name"] == "texts"
    outputs = {output["name"]: output["data"] for output in json.loads(text)["outputs"]}
    assert outputs["decision"] == ["ID"]
    assert 0.05 < outputs["p_value"][0] <= 1
    assert image.startswith(b'{"model_name":"fashion-mnist"')


def test_script(shipped: LiveServer) -> None:
    printed = run([sys.executable, "-c", SCRIPT.replace(ADDRESS, address(shipped))]).decode()
    assert printed.startswith("[b'ID'] [b'Sneaker'] [")
