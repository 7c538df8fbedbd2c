"""Hostile requests by the thousand: none gets a 5xx, every refusal has its code and status."""

import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from live_server import live_server
from mutations import Summary, send_all
from test_process import ServeProcess
from tiny_bundle import publish_tiny_bundle
from tiny_text_bundle import publish_tiny_text_bundle

from service.api_keys import entry_of, new_secret, parse_entries

MIB = 2**20
CONFIG = """
[parameters]
name = "tiny"
version = "1"

[[operations]]
include-path = "/models/reload"  # GET is that of a model of the name
checks.allow_header_conformance.enabled = false
"""
# refusals of what the document allows it to refuse; keys have tests of their own
CHECKS_LEFT_OUT = "positive_data_acceptance,ignored_auth"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed")
    publish_tiny_bundle(folder, "tiny", "1", seed=1, gradient=True)
    publish_tiny_text_bundle(folder, "words", "1")
    return folder


def run_schemathesis(models: Path, tmp_path: Path, examples: int, phases: str) -> str:
    """Every check of the OpenAPI document against the service; returns what it printed."""
    secret = new_secret()
    keys = parse_entries([entry_of("all", "score+metrics+admin", secret)])
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    with live_server(models, api_keys=keys, max_body_bytes=4 * MIB) as running:
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
        options = [
            f"{running.url}/openapi.json",
            *("--phases", phases, "--max-examples", str(examples)),
            "--generation-deterministic",
            *("--exclude-checks", CHECKS_LEFT_OUT, "--continue-on-failure", "--no-color"),
            *("--header", f"X-API-Key: {secret}"),
        ]
        done = subprocess.run(
            command + options, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert running.client.get("/livez").status_code == 200
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_openapi_document_is_kept(models: Path, tmp_path: Path) -> None:
    assert "Failures" not in run_schemathesis(models, tmp_path, 5, "examples,fuzzing")


@pytest.mark.slow
def test_the_openapi_document_is_kept_for_long(models: Path, tmp_path: Path) -> None:
    assert "Failures" not in run_schemathesis(models, tmp_path, 150, "examples,coverage,fuzzing")


def judge(summaries: list[Summary], count: int) -> None:
    assert [problem for summary in summaries for problem in summary.broken] == []
    answers: Counter[tuple[int, str]] = Counter()
    for summary in summaries:
        answers += summary.answers
    assert answers.total() == count
    # the damage reaches deep: some are still good, and they are refused in many ways
    assert answers[200, ""] > count / 50
    assert len(answers) > 15


def test_mutated_requests(models: Path) -> None:
    with live_server(models) as running:
        address = urlsplit(running.url)
        judge([send_all(address.hostname or "", address.port or 0, 1500, seed=1)], 1500)


@pytest.fixture
def process(models: Path) -> Generator[ServeProcess]:
    serving = ServeProcess(models, log_level="error")
    try:
        serving.wait_ready()
        yield serving
    finally:
        serving.process.kill()
        serving.process.communicate()


@pytest.mark.slow
def test_sixty_thousand_mutated_requests_leave_no_memory_behind(process: ServeProcess) -> None:
    address = urlsplit(process.url)
    service = psutil.Process(process.process.pid)

    def send(count: int, seeds: range) -> list[Summary]:
        with ThreadPoolExecutor(3) as callers:
            waiting = [
                callers.submit(send_all, address.hostname or "", address.port or 0, count, seed)
                for seed in seeds
            ]
            return [job.result() for job in waiting]

    judge(send(5_000, range(3)), 15_000)
    warm = service.memory_info().rss, service.num_threads(), service.num_fds()
    judge(send(5_000, range(3, 12)), 45_000)
    after = service.memory_info().rss, service.num_threads(), service.num_fds()
    assert after[0] - warm[0] < 24 * MIB, (warm, after)
    assert after[1] <= warm[1] + 2, (warm, after)
    assert after[2] <= warm[2] + 4, (warm, after)
