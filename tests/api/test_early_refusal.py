"""A full service refuses before it has read anything, in the words of the application."""

import http.client
import logging
import re
from collections.abc import Generator
from pathlib import Path

import pytest
from live_server import LiveServer, live_server
from pictures import id_png
from test_refusals import assert_problem

from service.early_refusal import EarlyRefusal

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


def test_a_body_of_no_length_or_larger_than_any_is_left_to_the_application(
    full: LiveServer,
) -> None:
    refusal = EarlyRefusal(full.runtime)
    limit = full.runtime.body_limits.max_body_bytes

    def answered(*headers: tuple[bytes, bytes]) -> bool:
        return refusal.answer(b"POST", b"/score", headers) is not None

    assert answered((b"content-length", str(limit).encode()))
    assert not answered((b"content-length", str(limit + 1).encode()))
    assert not answered((b"transfer-encoding", b"chunked"))
