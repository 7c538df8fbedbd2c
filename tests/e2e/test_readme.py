"""Every command of the README works: run here, or by .ci/run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from live_server import LiveServer, live_server

from service.settings import Settings
from training.benchmarks import BENCHMARKS
from training.config import load_config
from training.detectors import DETECTORS
from training.graph_detectors import GRAPH_DETECTORS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
CI = (ROOT / ".ci" / "run").read_text()
# Started by hand and running until stopped, or minutes of measuring: not in .ci/run.
INTERACTIVE = {"make serve", "make bench"}


def starting_with(prefix: str) -> list[str]:
    found = [command for command in COMMANDS if command.startswith(prefix)]
    assert found, prefix
    return found


def test_every_command_is_of_a_kind_this_file_checks() -> None:
    kinds = ("make ", "curl ", ".venv-service/bin/oodscore ", ".venv/bin/oodscore-train ")
    assert [c for c in COMMANDS if not c.startswith(kinds)] == []


@pytest.mark.parametrize("command", starting_with("make "))
def test_make_targets_exist_and_ci_runs_them(command: str) -> None:
    subprocess.run(
        ["make", "--dry-run", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True
    )
    assert command in INTERACTIVE or f"\n{command}\n" in CI


def test_the_demo_prints_what_is_to_be_expected() -> None:
    """Words only: the figures behind the label may move in their last place."""
    (block,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "demo" / "demo.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [line for line in done.stdout.splitlines() if "  (label " in line]
    expected = [line.removesuffix("...)") for line in block.splitlines()]
    assert len(printed) == len(expected) == 4
    for line, words in zip(printed, expected, strict=True):
        assert line.startswith(words)


@pytest.fixture(scope="module")
def shipped() -> Generator[LiveServer]:
    with live_server(ROOT / "models") as server:
        yield server


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", starting_with("curl "))
def test_curl_commands_are_answered(shipped: LiveServer, command: str) -> None:
    arguments = shlex.split(command.replace("http://127.0.0.1:8000", shipped.url))
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    if "/metrics" in command:
        assert "oodscore_requests_total" in done.stdout
    elif "/score" in command:
        (result,) = json.loads(done.stdout)["results"]
        assert result["decision"] == "ID"
        assert result["label"] == ("book_flight" if "flight" in command else "Sneaker")
    else:
        assert json.loads(done.stdout)["name"] == "fashion-mnist"


@pytest.mark.parametrize("command", starting_with(".venv-service/bin/oodscore "))
def test_offline_commands_succeed(command: str) -> None:
    arguments = shlex.split(command)[1:]
    executable = Path(sys.executable).with_name("oodscore")
    done = subprocess.run(
        [executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()


@pytest.mark.parametrize("command", starting_with(".venv/bin/oodscore-train "))
def test_training_commands_name_what_exists(command: str) -> None:
    """They take minutes; their parts run in tests/contract and in the slow suite."""
    _, verb, argument, *_ = shlex.split(command)
    if verb == "run":
        assert load_config(ROOT / argument).primary == "combined"
    elif verb == "evaluate":
        assert (ROOT / argument / "manifest.json").is_file()
    else:
        assert verb == "benchmark"
        assert argument in BENCHMARKS


def test_every_setting_is_listed_and_nothing_else() -> None:
    listed = set(re.findall(r"`OODSCORE_([A-Z0-9_]+)`", README)) - {"DATA"}
    assert listed == {name.upper() for name in Settings.model_fields}


def test_every_detector_is_listed() -> None:
    for name in DETECTORS | GRAPH_DETECTORS:
        assert f"`{name}`" in README


def test_the_index_leads_to_every_page() -> None:
    (index,) = re.findall(r"^## Documentation\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    linked = {Path(target).name for target in re.findall(r"\]\(docs/([^)#]+)", index)}
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/adding-a-detector.md",
        "docs/api-reference.md",
        "docs/http-api.md",
        "docs/deployment.md",
        "docs/backbones.md",
        "docs/benchmarks.md",
        "docs/combined.md",
        "docs/scores.md",
        "docs/text.md",
    ],
)
def test_links_between_files_hold(page: str) -> None:
    file = ROOT / page
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text()):
        assert (file.parent / target).exists(), target
