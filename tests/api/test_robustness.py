"""Bad neighbours, storms of clients that leave, a jumping clock: nobody else notices."""

import gc
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import encode, id_png, npy
from starlette.requests import Request
from tiny_bundle import id_images

from service.batching.job import Job
from service.bundle import FORWARD
from service.cpus import usable_cpus

ROUNDS, GOOD = 8, 15
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "text": "text/plain", "npy": "application/x-npy"}


class Brittle:
    """At the session seam: throws at every batch that holds an image of nothing but white."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.provider, self.threads, self.tuning = real.provider, real.threads, real.tuning
        self.single = None
        self.thrown = 0
        self.seconds = 0.0  # of a run

    def run(self, pixels: Any, outputs: Any) -> Any:
        if (pixels == 255).all(axis=(1, 2, 3)).any():
            self.thrown += 1
            raise RuntimeError("the session cannot do that")
        time.sleep(self.seconds)
        return self.real.run(pixels, outputs)


@pytest.fixture
def running(mixed_dir: Path) -> Generator[LiveServer]:
    with live_server(mixed_dir, default_image_model="tiny") as server:
        yield server


@pytest.fixture
def brittle(running: LiveServer) -> Brittle:
    sessions = cast(dict[str, Any], running.runtime.require_repository().get("tiny").sessions)
    sessions[FORWARD] = Brittle(sessions[FORWARD])
    return sessions[FORWARD]


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def post(server: LiveServer, kind: str, body: bytes) -> httpx.Response:
    headers = {"Content-Type": TYPES[kind]}
    url = f"{server.url}/score"
    return httpx.post(url, content=body, headers=headers, timeout=30, trust_env=False)


def nothing_is_left(server: LiveServer) -> None:
    value = server.runtime.metrics.registry.get_sample_value
    until(lambda: server.runtime.admission.queued == 0)
    until(lambda: server.runtime.open_bodies == 0)
    until(lambda: server.runtime.batcher.lanes == 0)
    until(lambda: value("oodscore_in_flight") == 0)


def test_good_requests_are_not_lost_to_bad_neighbours(
    running: LiveServer, brittle: Brittle
) -> None:
    large = np.repeat(np.repeat(id_images(1, 5)[0], 16, axis=0), 16, axis=1)
    jpeg = encode(large, "JPEG")
    bad = {
        "header cut": ("jpeg", jpeg[:12], 422, "image_unreadable"),
        "body cut": ("jpeg", jpeg[: len(jpeg) * 2 // 3], 422, "image_unreadable"),
        "no text": ("text", b"my \xff card", 422, "text_unreadable"),
        "throws": ("png", encode(np.full((8, 8, 1), 255, np.uint8)), 500, "inference_failed"),
    }
    with ThreadPoolExecutor(GOOD + len(bad)) as callers:
        for number in range(ROUNDS):
            good = [callers.submit(post, running, "png", id_png(number + k)) for k in range(GOOD)]
            neighbours = {
                name: callers.submit(post, running, kind, body)
                for name, (kind, body, _, _) in bad.items()
            }
            assert [answer.result().status_code for answer in good] == [200] * GOOD
            for name, (_, _, status, code) in bad.items():
                answer = neighbours[name].result()
                assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert brittle.thrown >= ROUNDS
    nothing_is_left(running)


def test_a_storm_of_clients_that_leave_leaves_nothing_behind(running: LiveServer) -> None:
    address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
    body = npy(id_images(64, 6))
    head = (
        f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPES['npy']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    assert post(running, "npy", body).status_code == 200
    threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("score")}
    assert len(threads) == usable_cpus()

    def leave(number: int) -> None:
        with socket.create_connection(address, timeout=20) as connection:
            # in the head, in the body, or with a question nobody waits to hear answered
            connection.sendall((head + body)[: (20, len(head) + 100, None)[number % 3]])

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(leave, range(150)))
        stays = list(clients.map(lambda _: post(running, "npy", body).status_code, range(20)))
    assert stays == [200] * 20
    nothing_is_left(running)
    now = {thread.name for thread in threading.enumerate() if thread.name.startswith("score")}
    assert now == threads


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {}, id_png()),
        (422, {}, id_png()[:-20]),
        (504, {"X-Request-Timeout": "0.03"}, id_png()),
    ],
)
def test_a_request_leaves_nothing_to_the_garbage_collector(
    running: LiveServer, brittle: Brittle, status: int, headers: dict[str, str], body: bytes
) -> None:
    """Under load it would be tens of objects a request, and seconds of collection a minute."""
    brittle.seconds = 0.1  # long enough for a look at whether the client is still there

    def ask() -> None:
        given = {"Content-Type": "image/png", **headers}
        assert running.client.post("/score", content=body, headers=given).status_code == status
        until(lambda: not running.runtime.admission.queued)

    ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            ask()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(thing).__name__ for thing in gc.garbage if isinstance(thing, (Request, Job))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


def test_a_jumping_clock_changes_no_answer(
    running: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, jumps = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + jumps[-1])
    before = post(running, "png", id_png()).json()["results"]
    for jump in (-86_400.0, 0.0, 366 * 86_400.0, -3600.0):
        jumps.append(jump)
        answer = post(running, "png", id_png())
        assert answer.status_code == 200
        assert answer.json()["results"] == before
        assert running.client.get("/metrics").status_code == 200
        assert running.client.get("/readyz").status_code == 200
        assert running.client.get("/drift").status_code == 200
    nothing_is_left(running)
