"""A full service refuses before it has read anything, in the words of the application."""

import http.client
import logging
import re
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
from live_server import LiveServer, live_server
from pictures import id_png
from test_refusals import assert_problem

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def one_at_a_time(models_dir: Path) -> Generator[LiveServer]:
    with live_server(
        models_dir,
        default_image_model="tiny",
        max_open_requests=1,
        cors_origins=["https://elsewhere.example"],
    ) as running:
        yield running


@pytest.fixture
def full(one_at_a_time: LiveServer) -> Generator[LiveServer]:
    with one_at_a_time.runtime.body_slot():
        yield one_at_a_time


def refusals(server: LiveServer) -> list[float]:
    text = server.client.get("/metrics").text
    names = (
        r'requests_total{route="/score",status="429"}',
        r'rejected_requests_total{reason="overloaded"}',
        r'request_duration_seconds_count{route="/score"}',
    )
    found = [re.search(rf"^oodscore_{re.escape(name)} (\S+)$", text, re.M) for name in names]
    return [float(match[1]) if match else 0.0 for match in found]


def test_it_answers_as_the_application_does(full: LiveServer) -> None:
    headers = PNG | {"X-Request-Id": "mine"}
    early = full.client.post("/score?model=tiny", content=id_png(), headers=headers)
    # a body of unknown length goes the long way
    late = full.client.post("/score", content=iter([id_png()]), headers=headers)
    for response in (early, late):
        assert_problem(response, 429, "overloaded")
        assert response.headers["x-request-id"] == "mine"
    assert early.json() == late.json()
    unlike = ("date", "content-length")
    assert {k: v for k, v in early.headers.items() if k not in unlike} == {
        k: v for k, v in late.headers.items() if k not in unlike
    }


def test_what_is_no_fit_id_is_replaced(full: LiveServer) -> None:
    response = full.client.post("/score", content=b"", headers=PNG | {"X-Request-Id": "a b"})
    identity = response.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", identity)
    assert response.json()["request_id"] == identity


def test_refusals_are_counted_and_not_logged_one_by_one(
    full: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    before = refusals(full)
    with caplog.at_level(logging.INFO):
        for _ in range(20):
            assert full.client.post("/score", content=id_png(), headers=PNG).status_code == 429
    assert [now - then for now, then in zip(refusals(full), before, strict=True)] == [20, 20, 20]
    lines = [r for r in caplog.records if getattr(r, "fields", {}).get("route") == "/score"]
    assert lines == []


def test_other_paths_and_methods_are_answered(full: LiveServer) -> None:
    assert full.client.get("/readyz").status_code == 200
    assert full.client.get("/score").status_code == 405
    assert full.client.post("/scores", content=b"").status_code == 404


def test_a_page_of_another_origin_can_read_it(full: LiveServer) -> None:
    origin = {"Origin": "https://elsewhere.example"}
    response = full.client.post("/score", content=id_png(), headers=PNG | origin)
    assert_problem(response, 429, "overloaded")
    assert response.headers["access-control-allow-origin"] == origin["Origin"]


def test_the_answer_comes_before_the_body_and_the_connection_goes_on(
    one_at_a_time: LiveServer,
) -> None:
    body = id_png()
    connection = http.client.HTTPConnection(one_at_a_time.url.removeprefix("http://"), timeout=20)
    with one_at_a_time.runtime.body_slot():
        connection.putrequest("POST", "/score")
        for name, value in {**PNG, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()  # nothing of the body has been sent
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
        response.read()
        connection.send(body)
    connection.request("POST", "/score", body, PNG)
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.read().startswith(b"{")
    connection.close()


def test_who_waits_for_a_hundred_keeps_a_connection_that_works(full: LiveServer) -> None:
    """It need not send the body it announced; the next request is no part of that."""
    address = ("127.0.0.1", int(full.url.rpartition(":")[2]))
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 9\r\n"
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        answer = connection.recv(65536)
        assert answer.startswith((b"HTTP/1.1 100", b"HTTP/1.1 429"))
    assert full.client.get("/readyz").status_code == 200


def test_a_body_larger_than_any_is_refused_for_that(full: LiveServer) -> None:
    limit = full.runtime.body_limits.max_body_bytes
    connection = http.client.HTTPConnection(full.url.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/score")
    for name, value in {**PNG, "Content-Length": str(limit + 1)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status in (413, 429)
    connection.close()
