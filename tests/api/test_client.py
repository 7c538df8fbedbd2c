"""The client, for threads and for asyncio, against the real service and against servers that
misbehave."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import encode, id_png, npy, ood_png
from tiny_bundle import id_images

from service.api_keys import entry_of, new_secret, parse_entries
from service.client import (
    AsyncScoreClient,
    ClientError,
    NoAnswerInTime,
    RequestSize,
    Retries,
    ScoreClient,
    ServiceRefused,
    ServiceUnreachable,
    sync_client,
)
from service.client.exchange import retry_after_seconds
from service.schemas import FailedResult, ScoreParameters, ScoreResponse, ScoreResult

QUICK = Retries(attempts=3, first_wait_seconds=0.001, longest_wait_seconds=0.002)
Ask = Callable[..., Any]


@pytest.fixture(params=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """ask(url, method, *arguments, **options of the client) -> what the method returns."""

    def in_threads(url: str, method: str, *arguments: Any, **options: Any) -> Any:
        with ScoreClient(url, **options) as client:
            return getattr(client, method)(*arguments)

    async def with_asyncio(url: str, method: str, *arguments: Any, **options: Any) -> Any:
        async with AsyncScoreClient(url, **options) as client:
            answer: Awaitable[Any] = getattr(client, method)(*arguments)
            return await answer

    if request.param == "threads":
        return in_threads
    return lambda *args, **options: asyncio.run(with_asyncio(*args, **options))


# the real service


def decisions(response: ScoreResponse) -> list[str]:
    return [r.decision if isinstance(r, ScoreResult) else r.error.code for r in response.results]


def test_images_texts_and_arrays(mixed: LiveServer, ask: Ask) -> None:
    images = ask(mixed.url, "score_images", [id_png(), ood_png()])
    assert decisions(images) == ["ID", "OOD"]
    assert (images.model.name, [r.index for r in images.results]) == ("tiny", [0, 1])
    texts = ask(mixed.url, "score_texts", ["alpha beta", "\ud83d"])
    assert texts.model.name == "words"
    assert decisions(texts)[1] == "text_unreadable"
    rows = id_images(3, 95)
    as_array = ask(mixed.url, "score_array", rows)
    assert as_array == ask(mixed.url, "score_npy", npy(rows))
    assert as_array.results == ask(mixed.url, "score_images", [encode(r) for r in rows]).results
    assert [model.name for model in ask(mixed.url, "models")] == ["tiny", "words"]


def test_parameters(server: LiveServer, ask: Ask) -> None:
    parameters = ScoreParameters(model="tiny", version="1", detectors="energy", id_acceptance=0.5)
    (result,) = ask(server.url, "score_images", [id_png()], parameters).results
    assert list(result.detectors) == ["energy"]


@pytest.mark.parametrize(
    ("method", "inputs"),
    [
        ("score_images", [(id_png, ood_png)[i % 2]() for i in range(11)]),
        ("score_texts", [("alpha beta", "omega " * 5)[i % 2] for i in range(11)]),
        ("score_array", id_images(11, 3)),
        ("score_npy", npy(id_images(11, 3), allow_pickle=False)),
    ],
)
def test_long_lists_are_cut_and_joined(
    mixed: LiveServer, ask: Ask, method: str, inputs: Any
) -> None:
    whole = ask(mixed.url, method, inputs)
    assert [r.index for r in whole.results] == list(range(11))
    for size in (
        RequestSize(inputs=4, array_rows=4),
        RequestSize(body_bytes=150),
        RequestSize(body_bytes=1),
    ):
        before = served(mixed)
        cut = ask(mixed.url, method, inputs, request_size=size)
        assert served(mixed) - before >= 3
        assert cut.model == whole.model
        assert [r.index for r in cut.results] == list(range(11))
        assert decisions(cut) == decisions(whole)


def served(server: LiveServer) -> float:
    server.client.get("/livez")  # behind the request counted last
    labels = {"route": "/score", "status": "200"}
    return (
        server.runtime.metrics.registry.get_sample_value("oodscore_requests_total", labels) or 0.0
    )


def test_a_bad_input_costs_only_itself_wherever_the_cut_falls(mixed: LiveServer, ask: Ask) -> None:
    inputs = [id_png(), b"broken", ood_png()]
    for size in (1, 2, 3):
        answer = ask(mixed.url, "score_images", inputs, request_size=RequestSize(inputs=size))
        assert decisions(answer) == ["ID", "image_unreadable", "OOD"]
        assert [r.index for r in answer.results] == [0, 1, 2]
    with pytest.raises(ServiceRefused) as alone:
        ask(mixed.url, "score_images", [b"broken"])
    assert (alone.value.status, alone.value.code) == (422, "image_unreadable")


def test_what_the_service_finds_too_large_is_halved(models_dir: Path, ask: Ask) -> None:
    """A limit of the service, or of a proxy before it, that the client does not know."""
    large = id_png() + bytes(20_000)
    with live_server(
        models_dir, default_image_model="tiny", max_body_bytes=10_000, max_inputs=3
    ) as small:
        inputs = [id_png(), ood_png()] * 4
        assert decisions(ask(small.url, "score_images", inputs)) == ["ID", "OOD"] * 4
        answer = ask(small.url, "score_images", [*inputs[:3], large, *inputs[:2]])
    assert decisions(answer) == ["ID", "OOD", "ID", "body_too_large", "ID", "OOD"]


def test_nothing_is_refused_by_the_service(mixed: LiveServer, ask: Ask) -> None:
    for method, none in (("score_images", []), ("score_array", id_images(1, 1)[:0])):
        with pytest.raises(ServiceRefused) as refused:
            ask(mixed.url, method, none)
        assert refused.value.code == "no_inputs"
    with pytest.raises(ServiceRefused) as refused:
        ask(mixed.url, "score_npy", b"no array")
    assert refused.value.code == "array_invalid"
    with pytest.raises(ServiceRefused) as refused:
        ask(mixed.url, "score_array", np.zeros((2, 8, 8, 1), np.float32))
    assert refused.value.code == "array_invalid"


def test_keys(models_dir: Path, ask: Ask) -> None:
    secret = new_secret()
    keys = parse_entries([entry_of("app", "score", secret)])
    with live_server(models_dir, default_image_model="tiny", api_keys=keys) as closed:
        assert decisions(ask(closed.url, "score_images", [id_png()], api_key=secret)) == ["ID"]
        assert ask(closed.url, "models", api_key=secret)
        with pytest.raises(ServiceRefused) as missing:
            ask(closed.url, "score_images", [id_png()])
        assert (missing.value.status, missing.value.code) == (401, "key_missing")
        with pytest.raises(ServiceRefused) as wrong:
            ask(closed.url, "models", api_key=new_secret())
        assert wrong.value.code == "key_unknown"


def test_a_limited_key_waits_and_gets_through(models_dir: Path, ask: Ask) -> None:
    secret = new_secret()
    settings = {"api_keys": parse_entries([entry_of("app", "score", secret)])}
    with live_server(models_dir, key_requests_per_second=1, key_burst=1, **settings) as closed:
        for _ in range(2):
            assert ask(closed.url, "models", api_key=secret)
        with pytest.raises(ServiceRefused) as refused:
            ask(closed.url, "models", api_key=secret, retries=Retries(attempts=1))
    assert refused.value.retry_after_seconds == 1


@pytest.mark.parametrize("key", ["", "a b", "line\nbreak", "schlüssel"])
def test_what_is_no_key_is_not_sent_and_not_told(key: str) -> None:
    with pytest.raises(ValueError, match="characters that no key has") as raised:
        ScoreClient("http://127.0.0.1:1", api_key=key)
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[", ""])
def test_what_is_no_address_is_told_at_once(url: str, ask: Ask) -> None:
    with pytest.raises(ServiceUnreachable):
        ask(url, "models")


# servers that misbehave


Script = Sequence[bytes | None]  # an answer to each connection; None: silence


class Misbehaving:
    """Answers each connection with the next item of its script, and the last one for ever."""

    def __init__(self, script: Script, drip: bool) -> None:
        self.requests: list[bytes] = []
        self._script, self._drip = script, drip
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        reply = self._script[min(len(self.requests), len(self._script) - 1)]
        request = b""
        while b"\r\n\r\n" not in request:
            if not (chunk := connection.recv(65536)):
                return
            request += chunk
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        while length and len(body) < int(length[1]):
            body += connection.recv(65536)
        self.requests.append(head)
        if reply is None:
            self._over.wait(5)
        elif self._drip:
            for byte in reply:
                if self._over.wait(0.02):
                    return
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return
        else:
            connection.sendall(reply)

    def close(self) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def misbehaving(*script: bytes | None, drip: bool = False) -> Generator[Misbehaving]:
    server = Misbehaving(script, drip)
    try:
        yield server
    finally:
        server.close()


def http(status: int, body: bytes, **headers: str) -> bytes:
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{head}\r\n"
    ).encode() + body


def problem(status: int, code: str = "some_code", **headers: str) -> bytes:
    document = {
        "type": "t", "title": "t", "status": status, "detail": "why", "instance": "/score",
        "code": code, "request_id": "r",
    }  # fmt: skip
    return http(status, json.dumps(document).encode(), **headers)


RESULT = {
    "index": 0, "decision": "ID", "label": "a", "label_index": 0, "confidence": 1.0,
    "score": 0.0, "p_value": 1.0, "detector": "energy", "detectors": {},
}  # fmt: skip
GOOD = http(200, json.dumps({"model": {"name": "m", "version": "1"}, "results": [RESULT]}).encode())


@pytest.mark.parametrize(
    "first",
    [
        b"",  # closed without a word
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        GOOD[:-10],  # cut
        problem(503, "not_ready"),
        problem(429, "overloaded", Retry_After="0"),
        http(503, b"<html>a proxy</html>"),
        problem(503, "not_ready", Retry_After="soon"),
    ],
)
def test_what_may_pass_is_tried_again(ask: Ask, first: bytes) -> None:
    with misbehaving(first, first, GOOD) as server:
        assert decisions(ask(server.url, "score_texts", ["a"], retries=QUICK)) == ["ID"]
        assert len(server.requests) == 3


def test_nobody_there(ask: Ask) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceUnreachable, match=url):
            ask(url, "models", retries=QUICK)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 415, 422, 500, 502, 504])
def test_what_stays_wrong_is_not_tried_again(ask: Ask, status: int) -> None:
    with misbehaving(problem(status, Retry_After="0"), GOOD) as server:
        with pytest.raises(ServiceRefused) as refused:
            ask(server.url, "score_texts", ["a"], retries=QUICK)
        assert (refused.value.status, refused.value.code) == (status, "some_code")
        assert len(server.requests) == 1


def test_attempts_are_bounded(ask: Ask) -> None:
    with misbehaving(problem(503, "not_ready")) as server:
        with pytest.raises(ServiceRefused) as refused:
            ask(server.url, "score_texts", ["a"], retries=QUICK)
        assert refused.value.code == "not_ready"
        assert len(server.requests) == 3
    with misbehaving(b"") as server:
        with pytest.raises(ServiceUnreachable):
            ask(server.url, "score_texts", ["a"], retries=Retries(attempts=1))
        assert len(server.requests) == 1


def test_a_wait_beyond_the_deadline_is_not_begun(ask: Ask) -> None:
    with misbehaving(problem(429, "overloaded", Retry_After="3600")) as server:
        with pytest.raises(ServiceRefused) as refused:
            ask(server.url, "score_texts", ["a"], timeout_seconds=30)
        assert refused.value.retry_after_seconds == 3600
        assert len(server.requests) == 1


def test_retry_after_is_the_least_that_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(sync_client.time, "sleep", waited.append)
    asked = problem(429, "overloaded", Retry_After="7")
    script = (asked, asked, problem(503, "not_ready"), GOOD)
    with misbehaving(*script) as server, ScoreClient(server.url) as client:
        client.score_texts(["a"])
    assert len(waited) == 3
    assert all(7 <= seconds <= 7.7 for seconds in waited[:2])
    assert waited[0] != waited[1]
    assert 0 <= waited[2] <= 0.8


@pytest.mark.parametrize("drip", [False, True])
def test_a_deadline_ends_silence_and_dripping(ask: Ask, drip: bool) -> None:
    """A byte every 20 ms never lets a read time out."""
    slow = GOOD.replace(b"HTTP/1.1 200 X\r\n", b"HTTP/1.1 200 X\r\n\r\n", 1) if drip else None
    with misbehaving(slow, drip=drip) as server:
        with pytest.raises(NoAnswerInTime, match=r"within 0\.4 s"):
            ask(server.url, "score_texts", ["a"], timeout_seconds=0.4)
        assert len(server.requests) == 1
        (head,) = server.requests
        told = re.search(rb"(?i)x-request-timeout: ([0-9.]+)", head)
        assert told is not None
        assert 0.3 < float(told[1]) <= 0.4


@pytest.mark.parametrize(
    "reply",
    [
        http(200, b"<html>hello</html>"),
        http(200, b"{}"),
        GOOD.replace(b'"ID"', b'"XX"'),
        http(200, b'{"model": {"name": "m", "version": "1"}, "results": []}'),
    ],
)
def test_an_answer_of_something_else_is_told(ask: Ask, reply: bytes) -> None:
    with misbehaving(reply) as server:
        with pytest.raises(ClientError, match=server.url):
            ask(server.url, "score_texts", ["a"], retries=QUICK)
        assert len(server.requests) == 1


def test_a_redirect_is_not_followed_with_the_key(ask: Ask) -> None:
    with (
        misbehaving(GOOD) as elsewhere,
        misbehaving(http(307, b"", Location=f"{elsewhere.url}/score")) as server,
    ):
        with pytest.raises(ServiceRefused) as refused:
            ask(server.url, "score_texts", ["a"], api_key="secret-key")
        assert refused.value.status == 307
        assert b"Bearer secret-key" in server.requests[0]
        assert elsewhere.requests == []


def test_requests_of_one_list_are_answered_by_one_version(ask: Ask) -> None:
    """The second request names the version that answered the first."""
    with misbehaving(GOOD) as server:
        answer = ask(server.url, "score_texts", ["a", "b", "c"], request_size=RequestSize(inputs=1))
        assert len(answer.results) == 3
        targets = [head.split(b" ")[1] for head in server.requests]
    assert targets == [b"/score", b"/score?model=m&version=1", b"/score?model=m&version=1"]


def test_calls_of_one_asyncio_client_run_side_by_side(mixed: LiveServer) -> None:
    async def several() -> list[ScoreResponse]:
        async with AsyncScoreClient(mixed.url) as client:
            return await asyncio.gather(*(client.score_images([id_png()]) for _ in range(8)))

    assert [decisions(answer) for answer in asyncio.run(several())] == [["ID"]] * 8


def test_options_that_make_no_sense_are_refused() -> None:
    for options in ({"attempts": 0}, {"first_wait_seconds": 3, "longest_wait_seconds": 2}):
        with pytest.raises(ValueError, match=r"attempts|waits"):
            Retries(**options)
    with pytest.raises(ValueError, match="at least"):
        RequestSize(inputs=0)
    with pytest.raises(ValueError, match="timeout_seconds"):
        ScoreClient("http://127.0.0.1:1", timeout_seconds=0)


def test_waits_grow_to_a_bound_and_differ() -> None:
    retries = Retries(attempts=9, first_wait_seconds=0.5, longest_wait_seconds=3)
    longest = [retries.wait_seconds(n, None, lambda low, high: high) for n in (1, 2, 3, 4, 2000)]
    assert longest == [0.5, 1, 2, 3, 3]
    assert [retries.wait_seconds(n, None, lambda low, high: low) for n in (1, 4)] == [0, 0]
    assert retries.wait_seconds(1, 20, lambda low, high: low) == 20


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5),
        ("0", 0),
        ("0.5", 0.5),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (format_datetime(datetime(2030, 1, 1, 0, 0, 9, tzinfo=UTC), usegmt=True), 9),
        (format_datetime(datetime(2029, 1, 1, tzinfo=UTC), usegmt=True), 0),
    ],
)
def test_forms_of_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, datetime(2030, 1, 1, tzinfo=UTC)) == seconds


def test_failed_results_keep_their_place() -> None:
    """Of a list that was cut to single inputs, all of which were refused."""
    size = RequestSize(inputs=1)
    with (
        misbehaving(problem(422, "text_unreadable")) as server,
        ScoreClient(server.url, request_size=size) as client,
    ):
        answer = client.score_texts(["", " "])
    assert all(isinstance(result, FailedResult) for result in answer.results)
    assert [result.index for result in answer.results] == [0, 1]


def test_the_documented_example_runs(
    mixed: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()
    section = page.partition("\n## From Python\n")[2]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "photo.png").write_bytes(id_png())
    monkeypatch.chdir(tmp_path)
    printed: list[Any] = []
    code = example.replace("http://127.0.0.1:8000", mixed.url)
    exec(compile(code, "http-api.md", "exec"), {"print": printed.append})  # noqa: S102
    assert printed[0] == "ID"
    assert len(printed) == 3
