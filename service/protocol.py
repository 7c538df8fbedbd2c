"""uvicorn's HTTP protocol with patience that ends: nobody keeps a connection by doing nothing.

uvicorn closes connections that idle between two requests, and no others.  Here a client has so
many seconds, and so many bytes, to send the head of a request; so many seconds to take what it
is answered; and so many to end a body whose answer it already has.  How long a body itself may
take is the request's deadline.

Offers to speak another protocol (`Upgrade: h2c`, which Java's HTTP client makes with every request)
are ignored, as RFC 9110, section 7.8 allows; uvicorn loses the body behind them and takes what it
finds there for the next request.
"""

import asyncio
from collections.abc import Callable
from typing import ClassVar, Literal, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.errors import HeadTooLarge, MalformedRequest, ServiceError
from service.http_errors import service_error_response
from service.security_headers import add_defaults

MAX_HEAD_BYTES = 64 * 1024
Refusal = Callable[[bytes, bytes, list[tuple[bytes, bytes]]], bytes | None]


def _last_words(error: ServiceError) -> bytes:
    """A whole answer to what is no request yet, so that it has neither path nor id."""
    response = service_error_response(error, "")
    headers = list(response.raw_headers)
    add_defaults(headers)
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return STATUS_LINE[response.status_code] + lines + b"connection: close\r\n\r\n" + response.body


_TOO_LARGE = _last_words(HeadTooLarge(MAX_HEAD_BYTES))
_NO_HTTP = _last_words(
    MalformedRequest("what was received is no HTTP/1.1 request; the connection is closed")
)


class PatientProtocol(HttpToolsProtocol):
    """Made with its patience by `with_patience`."""

    patience_seconds: ClassVar[float] = 10.0
    refusal: ClassVar[Refusal | None] = None

    _timer: asyncio.TimerHandle | None = None  # of a head, or of the end of a body
    _write_timer: asyncio.TimerHandle | None = None
    _state: Literal["head", "body", "idle"] = "head"  # of what the client is sending
    _head_bytes = 0
    _refused = False  # the request whose body is arriving has its answer
    # of several requests sent at once, the one being answered; uvicorn knows the last alone
    _answering: RequestResponseCycle | None = None
    _repeating = False  # a head that has been heard already, to a new parser

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        if self._state == "idle":
            self._await_head()  # be it empty lines
        if self._state == "head":
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.transport.write(_NO_HTTP)
            self.transport.close()
            return
        if self._state == "head" and self._head_bytes > MAX_HEAD_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        if self._repeating:
            return
        if self._state == "idle":
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._repeating:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._repeating:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._repeating:
            return
        self._stop()
        self._state = "body"
        if self._refuse_early():
            return
        super().on_headers_complete()
        if not self.pipeline:
            self._answering = self.cycle

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser says so of every offer; the body is still to come
        self._stop()
        self._state = "idle"
        if self._refused:
            self._refused = False
            self.on_response_complete()
            return
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            self.pipeline.clear()  # nobody is there to be answered
        self._answering = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        if self._state == "body":
            self._start()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.patience_seconds, self._give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._tell_of_the_end()
        super().connection_lost(exc)
        if self._write_timer is not None:
            self._write_timer.cancel()

    def _parse(self, data: bytes) -> None:
        """Raises HttpParserError."""
        while True:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._ignore_offer()
            else:
                return

    def _ignore_offer(self) -> None:
        """A new parser, at the end of the same head without the offer; the old reads no body."""
        kept = [(n, v) for n, v in self.headers if n in (b"content-length", b"transfer-encoding")]
        lines = b"".join(b"%b: %b\r\n" % header for header in kept)
        version = self.parser.get_http_version().encode()
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._repeating = True
        self.parser.feed_data(b"POST / HTTP/%b\r\n%b\r\n" % (version, lines))
        self._repeating = False

    def _refuse_early(self) -> bool:
        """Whether the request has been answered without the application."""
        waiting = self.pipeline or (self.cycle is not None and not self.cycle.response_complete)  # pyright: ignore[reportUnnecessaryComparison]
        parser = self.parser
        refusal = type(self).refusal
        if refusal is None or waiting or not parser.should_keep_alive():
            return False
        answer = refusal(parser.get_method(), self.url, self.headers)
        if answer is None:
            return False
        self._refused = True
        self.transport.write(answer)
        self._start()
        return True

    def _await_head(self) -> None:
        self._state, self._head_bytes = "head", 0
        self._start()

    def _start(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(self.patience_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        """What the client does not take is thrown away with its connection."""
        self._tell_of_the_end()
        self.transport.abort()

    def _tell_of_the_end(self) -> None:
        """Whoever answers must not write to a connection that is gone."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self.pipeline.clear()


def with_patience(seconds: float, refusal: Refusal) -> type[PatientProtocol]:
    """`refusal`: method, URL and headers -> a whole response, None: let the application answer."""
    members = {"patience_seconds": seconds, "refusal": staticmethod(refusal)}
    return cast(type[PatientProtocol], type("PatientProtocol", (PatientProtocol,), members))
