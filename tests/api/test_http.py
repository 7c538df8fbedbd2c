"""What stands below a request: bytes that are none, and offers of other protocols."""

import contextlib
import json
import socket
from collections.abc import Generator
from http.client import HTTPResponse

import pytest
from live_server import LiveServer
from pictures import id_png

from service.protocol import MAX_HEAD_BYTES

PNG = id_png()
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
}
CHUNKS = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (30, PNG[:30], len(PNG) - 30, PNG[30:])
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n"


def ask(offer: bytes, body: bytes, framing: bytes) -> bytes:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    return head + framing + offer + b"\r\n" + body


FRAMINGS = {
    "length": (PNG, b"Content-Length: %d\r\n" % len(PNG)),
    "chunks": (CHUNKS, b"Transfer-Encoding: chunked\r\n"),
}


@contextlib.contextmanager
def connected(server: LiveServer) -> Generator[socket.socket]:
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and document of the next one."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_of_another_protocol_is_ignored(
    server: LiveServer, offer: str, framing: str
) -> None:
    """With the body in one piece with the head, and byte by byte; then the connection goes on."""
    whole = ask(OFFERS[offer], *FRAMINGS[framing])
    plain = server.client.post("/score", content=PNG, headers={"Content-Type": "image/png"})
    with connected(server) as connection:
        connection.sendall(whole)
        assert answer(connection) == (200, plain.json())
        for place in range(len(whole)):
            connection.sendall(whole[place : place + 1])
        assert answer(connection) == (200, plain.json())
        connection.sendall(LIVE + OFFERS[offer] + b"\r\n")
        assert answer(connection) == (200, {"status": "alive"})
        connection.sendall(LIVE + b"\r\n")
        assert answer(connection) == (200, {"status": "alive"})


def test_offers_in_a_pipeline_are_ignored(server: LiveServer) -> None:
    asked = [
        ask(OFFERS["h2c"], *FRAMINGS["chunks"]),
        LIVE + OFFERS["h2c"] + b"\r\n",
        ask(OFFERS["websocket"], *FRAMINGS["length"]),
        LIVE + b"Connection: close\r\n\r\n",
    ]
    with connected(server) as connection:
        connection.sendall(b"".join(asked))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 4
    assert received.count(b'"decision":') >= 2
    assert received.endswith(b'{"status":"alive"}')


def test_a_body_behind_an_offer_is_no_request(server: LiveServer) -> None:
    """Whoever relays offers would let a caller speak for others."""
    hidden = LIVE + b"\r\n"
    with connected(server) as connection:
        whole = ask(OFFERS["h2c"], hidden, b"Content-Length: %d\r\n" % len(hidden))
        connection.sendall(whole[: -len(hidden)])
        connection.sendall(hidden)
        status, problem = answer(connection)
        assert (status, problem["code"]) == (422, "image_unreadable")
        connection.sendall(b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(connection)[1]["code"] == "not_found"


def test_a_broken_body_behind_an_offer_is_refused(server: LiveServer) -> None:
    with connected(server) as connection:
        connection.sendall(ask(OFFERS["h2c"], b"zz\r\n", b"Transfer-Encoding: chunked\r\n"))
        status, problem = answer(connection)
        assert (status, problem["code"]) == (400, "malformed_request")
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"BREW /score HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ask(b"", b"ab", b"Content-Length: -2\r\n"),
        ask(b"", b"ab", b"Content-Length: 2\r\nContent-Length: 1\r\n"),
        ask(b"", b"0\r\n\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    ],
    ids=["no HTTP", "no method", "TLS", "negative length", "two lengths", "length and chunks"],
)
def test_what_is_no_request_is_refused_with_a_code(server: LiveServer, sent: bytes) -> None:
    with connected(server) as connection:
        connection.sendall(sent)
        status, problem = answer(connection)
        assert (status, problem["code"]) == (400, "malformed_request")
        assert problem["request_id"] == ""
        assert connection.recv(1) == b""


def test_a_head_larger_than_allowed_is_refused_with_a_code(server: LiveServer) -> None:
    start = LIVE + b"X-Long: "
    with connected(server) as connection:
        connection.sendall(start + b"x" * (MAX_HEAD_BYTES + 1 - len(start)))
        status, problem = answer(connection)
        assert (status, problem["code"]) == (431, "head_too_large")
        assert str(MAX_HEAD_BYTES) in problem["detail"]
        assert connection.recv(1) == b""
