"""Expensive detectors: their graphs stay closed until named, and hurt no one when they fail."""

import shutil
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import id_png
from test_refusals import assert_problem
from tiny_bundle import (
    FORWARD_DETECTORS,
    PASSES,
    PERTURBED,
    id_images,
    publish_tiny_bundle,
    reference_outputs,
    write_perturbed_graph,
)

from service import loading
from service.bundle import (
    FORWARD,
    GOLDEN,
    Golden,
    read_golden,
    read_manifest,
    sha256_of,
    write_golden,
    write_manifest,
)
from service.graphs import RETRY_SECONDS
from service.loading import LoadedBundle

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one bundle that has everything.  Read only."""
    repository = tmp_path_factory.mktemp("whole")
    publish_tiny_bundle(repository, "whole", "1", seed=5, everything=True)
    return repository


@pytest.fixture
def repository(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "models"))


@pytest.fixture
def fresh(repository: Path) -> Generator[LiveServer]:
    """A service that has opened no graph on demand yet."""
    with live_server(repository) as running:
        yield running


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graph files opened from now on, in order."""
    names: list[str] = []
    real = loading.open_graph

    def record(path: Path, *arguments: Any) -> Any:
        names.append(path.name)
        return real(path, *arguments)

    monkeypatch.setattr(loading, "open_graph", record)
    return names


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Generator[threading.Event]:
    """Graphs on demand are opened once this is set."""
    event = threading.Event()
    real = loading.open_graph

    def wait(path: Path, *arguments: Any) -> Any:
        assert path.name == FORWARD or event.wait(20)
        return real(path, *arguments)

    monkeypatch.setattr(loading, "open_graph", wait)
    yield event
    event.set()


def ask(client: httpx.Client, detectors: str | None = None, **headers: str) -> httpx.Response:
    params = {} if detectors is None else {"detectors": detectors}
    return client.post("/score", content=id_png(), headers=PNG | headers, params=params)


def bundle_of(server: LiveServer) -> LoadedBundle:
    return server.runtime.require_repository().get("whole")


def states(client: httpx.Client) -> dict[str, str]:
    detectors = client.get("/models/whole").json()["detectors"]
    return {d["name"]: d["state"] for d in detectors if d["on_demand"]}


def spoil_golden(repository: Path, output: str) -> None:
    """The recorded scores are off, and everything is signed again: only a run can tell."""
    folder = repository / "whole" / "1"
    manifest = read_manifest(folder)
    golden = read_golden(folder, manifest)
    wrong = golden.outputs | {output: golden.outputs[output] + np.float32(0.01)}
    write_golden(folder, Golden(golden.inputs, wrong))
    files = manifest.files | {GOLDEN: sha256_of(folder / GOLDEN)}
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def test_nothing_opens_a_graph_on_demand_but_a_request_that_names_it(
    opened: list[str], repository: Path
) -> None:
    with live_server(repository) as running:
        assert set(ask(running.client).json()["results"][0]["detectors"]) == set(FORWARD_DETECTORS)
        assert ask(running.client, "msp,energy").status_code == 200
        assert states(running.client) == {"odin": "not_opened", "mc_dropout": "not_opened"}
        assert opened == [FORWARD]
        assert set(bundle_of(running).sessions) == {FORWARD}

        (result,) = ask(running.client, "odin,energy").json()["results"]
        assert list(result["detectors"]) == ["odin", "energy"]
        assert result["detector"] == "odin"
        expected = reference_outputs(id_images(1, 50))
        assert result["score"] == pytest.approx(float(expected["score/odin"][0]), abs=1e-5)
        assert states(running.client) == {"odin": "ready", "mc_dropout": "not_opened"}
        assert opened == [FORWARD, PERTURBED]

        (result,) = ask(running.client, "energy,mc_dropout,odin").json()["results"]
        assert result["detector"] == "energy"
        score = result["detectors"]["mc_dropout"]["score"]
        assert score == pytest.approx(float(expected["score/mc_dropout"][0]), abs=1e-5)
        assert opened == [FORWARD, PERTURBED, PASSES]
        assert set(ask(running.client).json()["results"][0]["detectors"]) == set(FORWARD_DETECTORS)


def test_what_is_on_demand_and_what_it_costs_is_shown(fresh: LiveServer) -> None:
    detectors = fresh.client.get("/models/whole").json()["detectors"]
    shown = {d["name"]: (d["cost"], d["on_demand"], d["state"]) for d in detectors}
    assert shown == dict.fromkeys(FORWARD_DETECTORS, ("logits", False, "ready")) | {
        "odin": ("gradient", True, "not_opened"),
        "mc_dropout": ("multi_pass", True, "not_opened"),
    }


def test_a_graph_is_opened_once_under_concurrent_requests(
    fresh: LiveServer, opened: list[str], gate: threading.Event
) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(ask, fresh.client, "odin") for _ in range(8)]
        gate.set()
        answers = [job.result(20) for job in jobs]
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.text for answer in answers}) == 1
    assert opened == [PERTURBED]


def test_nobody_else_waits_while_a_graph_is_opened(
    fresh: LiveServer, gate: threading.Event
) -> None:
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, fresh.client, "odin") for _ in range(6)]
        for _ in range(20):
            assert ask(fresh.client).status_code == 200
        assert not any(job.done() for job in waiting)
        assert fresh.runtime.admission.queued == 0
        time.sleep(0.05)
        gate.set()
        answers = [job.result(20) for job in waiting]
    assert [answer.status_code for answer in answers] == [200] * 6
    for answer in answers:
        queued = answer.headers["server-timing"].split(",")[0]
        assert float(queued.removeprefix("queue;dur=")) >= 50


def test_who_waits_for_a_graph_waits_no_longer_than_its_deadline(
    fresh: LiveServer, gate: threading.Event
) -> None:
    late = ask(fresh.client, "odin", **{"X-Request-Timeout": "0.1"})
    assert_problem(late, 504, "deadline_passed")
    gate.set()
    assert ask(fresh.client, "odin").status_code == 200


def test_a_golden_mismatch_is_an_error_of_its_detectors_alone(
    repository: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    spoil_golden(repository, "score/odin")
    with live_server(repository) as running:
        for detectors in ("odin", "energy,odin", "odin"):
            answer = ask(running.client, detectors)
            problem = assert_problem(answer, 503, "detector_unavailable")
            assert PERTURBED in problem["detail"]
            assert str(repository) not in answer.text
            assert 0 < int(answer.headers["retry-after"]) <= RETRY_SECONDS
        assert opened == [FORWARD, PERTURBED]  # tried once
        assert states(running.client) == {"odin": "failed", "mc_dropout": "not_opened"}
        assert set(bundle_of(running).sessions) == {FORWARD}
        (message,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert "score/odin: differs from the recorded output" in message

        assert set(ask(running.client).json()["results"][0]["detectors"]) == set(FORWARD_DETECTORS)
        assert ask(running.client, "mc_dropout,energy").status_code == 200
        assert running.client.get("/readyz").status_code == 200
        value = running.runtime.metrics.registry.get_sample_value
        labels = {"reason": "detector_unavailable"}
        assert value("oodscore_rejected_requests_total", labels) == 3


def test_several_inputs_are_refused_together(repository: Path) -> None:
    spoil_golden(repository, "score/odin")
    with live_server(repository) as running:
        files = [("file", id_png())] * 3
        answer = running.client.post("/score", files=files, params={"detectors": "odin"})
        assert_problem(answer, 503, "detector_unavailable")


@pytest.mark.parametrize("file", [PERTURBED, "weights.bin", GOLDEN])
def test_what_changed_on_disk_since_the_start_is_not_opened(
    repository: Path, fresh: LiveServer, file: str
) -> None:
    path = repository / "whole" / "1" / file
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert_problem(ask(fresh.client, "odin"), 503, "detector_unavailable")
    assert ask(fresh.client).status_code == 200


def test_a_file_that_came_since_the_start_is_not_read(repository: Path, fresh: LiveServer) -> None:
    (repository / "whole" / "1" / "more.bin").write_bytes(b"x")
    assert_problem(ask(fresh.client, "odin"), 503, "detector_unavailable")


def test_a_repaired_graph_is_served_without_a_restart(
    repository: Path, fresh: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.graphs.RETRY_SECONDS", 0.2)
    path = repository / "whole" / "1" / PERTURBED
    good = path.read_bytes()
    write_perturbed_graph(path)  # the same scores, but not the file that was verified
    answer = ask(fresh.client, "odin")
    assert_problem(answer, 503, "detector_unavailable")
    assert answer.headers["retry-after"] == "1"
    path.write_bytes(good)
    give_up = time.monotonic() + 10
    while ask(fresh.client, "odin").status_code == 503:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert states(fresh.client)["odin"] == "ready"
