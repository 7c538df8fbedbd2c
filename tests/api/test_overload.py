"""Bounded work: 429 when full, permits return when the work ends, 504 on time."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from live_server import LiveServer, live_server
from pictures import id_png, npy
from test_refusals import assert_problem
from tiny_bundle import id_images

from service.bundle import FORWARD
from service.cpus import usable_cpus
from service.decision import make_plan
from service.errors import Overloaded
from service.inputs import EncodedImage
from service.onnx_session import OnnxSession
from service.scoring import Deadline

PNG = {"Content-Type": "image/png"}
NPY = {"Content-Type": "application/x-npy"}
LIMIT = 8


class GatedSession:
    """At the session seam: inference waits until the gate opens."""

    def __init__(self, real: OnnxSession) -> None:
        self.real = real
        self.provider = real.provider
        self.threads = real.threads
        self.tuning = real.tuning
        self.single = None
        self.gate = threading.Event()
        self.entered = 0
        self.rows = 0

    def run(self, pixels: Any, outputs: Any) -> dict[str, Any]:
        self.entered += 1
        self.rows += len(pixels)
        assert self.gate.wait(20)
        return self.real.run(pixels, outputs)


@pytest.fixture
def small(models_dir: Path) -> Generator[LiveServer]:
    limits = {"max_inputs": LIMIT, "max_npy_inputs": LIMIT, "max_queued_inputs": LIMIT}
    with live_server(models_dir, default_image_model="tiny", **limits) as running:
        yield running


@pytest.fixture
def gated(small: LiveServer) -> Generator[GatedSession]:
    sessions = cast(dict[str, Any], small.runtime.require_repository().get("tiny").sessions)
    session = GatedSession(sessions[FORWARD])
    sessions[FORWARD] = session
    yield session
    session.gate.set()


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def post_rows(server: LiveServer, count: int, **headers: str) -> httpx.Response:
    content = npy(id_images(count, 80))
    return httpx.post(
        f"{server.url}/score", content=content, headers=NPY | headers, timeout=30, trust_env=False
    )


def test_a_full_queue_answers_429_and_loses_nothing(small: LiveServer, gated: GatedSession) -> None:
    with ThreadPoolExecutor(4) as callers:
        accepted = [callers.submit(post_rows, small, 2) for _ in range(LIMIT // 2)]
        wait_for(lambda: small.runtime.admission.queued == LIMIT)
        refused = post_rows(small, 1)
        assert_problem(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert small.client.get("/readyz").status_code == 200
        gated.gate.set()
        for answer in accepted:
            assert len(answer.result().json()["results"]) == 2
    assert small.runtime.admission.queued == 0
    assert post_rows(small, LIMIT).status_code == 200


def test_a_client_that_leaves_frees_no_permit_early(small: LiveServer, gated: GatedSession) -> None:
    for _ in range(4):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{small.url}/score", content=id_png(), headers=PNG, timeout=0.1, trust_env=False
            )
    # those in the model keep theirs; those that still waited are dropped
    wait_for(lambda: small.runtime.admission.queued == gated.rows > 0)
    assert small.runtime.open_bodies == gated.rows
    begun = gated.rows
    gated.gate.set()
    wait_for(lambda: small.runtime.admission.queued == 0)
    wait_for(lambda: small.runtime.open_bodies == 0)
    assert gated.rows == begun <= usable_cpus()
    assert post_rows(small, LIMIT).status_code == 200


def test_a_deadline_is_answered_on_time_while_the_work_goes_on(
    small: LiveServer, gated: GatedSession
) -> None:
    started = time.monotonic()
    assert_problem(post_rows(small, 3, **{"X-Request-Timeout": "0.2"}), 504, "deadline_passed")
    assert time.monotonic() - started < 5
    assert small.runtime.admission.queued == 3  # the running work keeps its permit
    gated.gate.set()
    wait_for(lambda: small.runtime.admission.queued == 0)


def test_queued_work_whose_deadline_passed_is_never_begun(
    small: LiveServer, gated: GatedSession
) -> None:
    with ThreadPoolExecutor(8) as callers:
        running = [callers.submit(post_rows, small, 1) for _ in range(LIMIT - 1)]
        wait_for(lambda: small.runtime.admission.queued == LIMIT - 1)
        late = post_rows(small, 1, **{"X-Request-Timeout": "0.1"})
        assert_problem(late, 504, "deadline_passed")
        wait_for(lambda: small.runtime.admission.queued == LIMIT - 1)
        gated.gate.set()
        assert all(answer.result().status_code == 200 for answer in running)
    assert gated.rows == LIMIT - 1


def test_cancelled_callers_free_permits_only_when_the_work_ended(
    small: LiveServer, gated: GatedSession
) -> None:
    runtime = small.runtime
    bundle = runtime.require_repository().get("tiny")
    plan = make_plan(bundle.manifest, bundle.calibration)

    async def scenario() -> None:
        def start() -> asyncio.Task[Any]:
            inputs = [EncodedImage(id_png())] * 4
            return asyncio.create_task(runtime.score(bundle, inputs, plan, Deadline.after(20)))

        first = start()
        while gated.entered < 1:
            await asyncio.sleep(0.005)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert runtime.admission.queued == 4
        second = start()
        with pytest.raises(Overloaded):
            await start()
        gated.gate.set()
        assert len((await second).answers) == 4

    asyncio.run(scenario())
    wait_for(lambda: runtime.admission.queued == 0)


def test_a_body_that_comes_too_slowly_gives_its_place_back(small: LiveServer) -> None:
    def slow() -> Generator[bytes]:
        yield id_png()[:10]
        time.sleep(0.6)
        yield id_png()[10:]

    headers = PNG | {"X-Request-Timeout": "0.2"}
    response = httpx.post(f"{small.url}/score", content=slow(), headers=headers, trust_env=False)
    assert_problem(response, 504, "deadline_passed")
    with small.runtime.body_slot():
        assert small.runtime.open_bodies == 1


def test_too_many_open_requests(models_dir: Path) -> None:
    with live_server(models_dir, max_open_requests=1) as running:
        with running.runtime.body_slot():
            response = running.client.post("/score", content=id_png(), headers=PNG)
            assert_problem(response, 429, "overloaded")
        assert running.client.post("/score", content=id_png(), headers=PNG).status_code == 200


def test_many_clients_at_once_get_their_own_answers(server: LiveServer) -> None:
    rows = id_images(24, 81)
    expected = server.client.post("/score", content=npy(rows), headers=NPY).json()["results"]

    def ask(index: int) -> float:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            response = client.post("/score", content=npy(rows[index : index + 1]), headers=NPY)
            return response.json()["results"][0]["score"]

    with ThreadPoolExecutor(8) as callers:
        scores = list(callers.map(ask, range(24)))
    assert scores == pytest.approx([result["score"] for result in expected], abs=1e-5)
