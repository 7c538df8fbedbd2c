"""Nobody keeps a connection by doing nothing: slow and silent clients, half-open connections."""

import contextlib
import json
import socket
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from live_server import LiveServer, live_server
from pictures import id_png

PATIENCE = 0.4
HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def hasty(models_dir: Path) -> Generator[LiveServer]:
    with live_server(
        models_dir, default_image_model="tiny", client_patience_seconds=PATIENCE
    ) as running:
        yield running


@contextlib.contextmanager
def connected(server: LiveServer) -> Generator[socket.socket]:
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=20) as connection:
        yield connection


def _send_for_ever(connection: socket.socket, data: bytes, *, pause: float) -> None:
    while True:
        connection.sendall(data)
        time.sleep(pause)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes; the socket's timeout is the test's failure."""
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_a_silent_connection_is_closed(hasty: LiveServer) -> None:
    with connected(hasty) as connection:
        assert rest(connection) == b""


@pytest.mark.parametrize("drop", [b"X", b"\r\n"], ids=["a head without end", "empty lines"])
def test_a_dribbling_client_is_cut_off(hasty: LiveServer, drop: bytes) -> None:
    with connected(hasty) as connection:
        if drop == b"X":
            connection.sendall(HEAD + b"X-Slow: ")
        give_up = time.monotonic() + 20
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < give_up:
                connection.sendall(drop)
                time.sleep(0.02)
        assert time.monotonic() < give_up


def test_a_head_without_bounds_is_refused(hasty: LiveServer) -> None:
    with connected(hasty) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(HEAD)
            for number in range(3000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"y" * 50))
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = rest(connection)
    if answer:  # lost where more was on its way when the connection was closed
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "head_too_large"


def test_an_answer_given_early_does_not_wait_for_the_body(models_dir: Path) -> None:
    """Refused from its length alone; then the client goes on sending, a byte at a time."""
    with live_server(models_dir, max_body_bytes=1000, client_patience_seconds=PATIENCE) as running:
        with connected(running) as connection:
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
            first = connection.recv(65536)
            give_up = time.monotonic() + 20
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < give_up:
                    connection.sendall(b"x")
                    time.sleep(0.02)
            assert time.monotonic() < give_up
        assert first.startswith(b"HTTP/1.1 413 ")
        assert json.loads(first.partition(b"\r\n\r\n")[2])["code"] == "body_too_large"
        assert running.runtime.open_bodies == 0


def test_a_client_that_does_not_read_is_cut_off(
    hasty: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers pile up until nobody's buffers hold more."""
    with connected(hasty) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # a pipeline of questions, and not one answer read
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400
        connection.sendall(ask)
        with pytest.raises(ConnectionError):
            _send_for_ever(connection, b"G", pause=0.05)
    assert hasty.client.get("/livez").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_patient_client_is_served_again_and_again(hasty: LiveServer) -> None:
    """Pauses between requests and inside a body are longer than that patience."""
    png = id_png()
    with connected(hasty) as connection:
        for _ in range(2):
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(png) + png[:30])
            time.sleep(PATIENCE * 1.5)
            connection.sendall(png[30:])
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert json.loads(body)["results"][0]["decision"] in ("ID", "OOD")
            time.sleep(PATIENCE * 1.5)


def test_an_idle_connection_is_closed_after_its_time(models_dir: Path) -> None:
    with (
        live_server(models_dir, keep_alive_seconds=1) as running,
        connected(running) as connection,
    ):
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert rest(connection) == b""
