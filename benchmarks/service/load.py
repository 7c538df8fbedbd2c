"""HTTP/1.1 load from a process of its own.  Reads one JSON document on stdin, answers on stdout.

closed: every connection sends its next request when the last one is answered.
open: requests begin at a fixed rate whatever the answers do; latency counts from the moment a
request was due, and a request that finds no free connection opens one, up to `connections`.
once: all requests at once, each on a connection of its own.

Knows what the measured servers send: Content-Length or chunked bodies, keep-alive.
"""

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, cast


@dataclass(frozen=True)
class Spec:
    host: str
    port: int
    requests: list[str]  # whole HTTP requests, base64
    mode: Literal["closed", "open", "once"]
    seconds: float = 0.0
    concurrency: int = 1  # closed
    rate: float = 0.0  # open, requests a second
    connections: int = 1  # open, at most


@dataclass
class Answer:
    status: int
    seconds: float
    at: float  # seconds since the start, when it came
    body: bytes = b""


@dataclass
class Record:
    answers: list[Answer] = field(default_factory=list[Answer])
    failures: Counter[str] = field(default_factory=Counter[str])


class Connection(asyncio.Protocol):
    """One request at a time; opened by the first, and again after the server closed it.

    A protocol, not streams: the generator shares its processors with the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = b""

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, *self._address)
        assert self._transport is not None  # noqa: S101  connection_made came before
        self._received = b""
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        lower = head.lower()
        if (place := lower.find(b"content-length:")) >= 0:
            whole = len(body) >= int(lower[place + 15 :].split(b"\r\n", 1)[0])
        else:
            whole = body.endswith(b"0\r\n\r\n")
        if whole:
            if b"connection: close" in lower:
                self.close()
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed before the answer"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


async def timed(
    connection: Connection, request: bytes, due: float, began: float, record: Record, keep: bool
) -> None:
    try:
        status, body = await connection.ask(request)
    except (OSError, ValueError) as exc:
        connection.close()
        record.failures[type(exc).__name__] += 1
        return
    now = time.perf_counter()
    record.answers.append(Answer(status, now - due, now - began, body if keep else b""))


async def closed(spec: Spec, requests: list[bytes], record: Record) -> None:
    began = time.perf_counter()
    until = began + spec.seconds

    async def client(number: int) -> None:
        connection = Connection(spec.host, spec.port)
        turn = number
        while (now := time.perf_counter()) < until:
            await timed(connection, requests[turn % len(requests)], now, began, record, False)
            turn += 1
        connection.close()

    await asyncio.gather(*(client(number) for number in range(spec.concurrency)))


async def opened(spec: Spec, requests: list[bytes], record: Record) -> None:
    free: list[Connection] = []
    made = 0
    tasks: set[asyncio.Task[None]] = set()
    began = time.perf_counter()
    sent = 0

    async def send(connection: Connection, request: bytes, due: float) -> None:
        await timed(connection, request, due, began, record, False)
        free.append(connection)

    while (now := time.perf_counter()) - began < spec.seconds:
        while sent < (now - began) * spec.rate:
            due = began + sent / spec.rate
            request = requests[sent % len(requests)]
            sent += 1
            if not free:
                if made == spec.connections:
                    record.failures["no free connection"] += 1
                    continue
                made += 1
                free.append(Connection(spec.host, spec.port))
            task = asyncio.create_task(send(free.pop(), request, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks)
    for connection in free:
        connection.close()


async def once(spec: Spec, requests: list[bytes], record: Record) -> None:
    began = time.perf_counter()
    connections = [Connection(spec.host, spec.port) for _ in requests]
    records = [Record() for _ in requests]
    await asyncio.gather(
        *(
            timed(connection, request, began, began, own, True)
            for connection, request, own in zip(connections, requests, records, strict=True)
        )
    )
    for own in records:  # in the order of the requests
        record.answers += own.answers or [Answer(0, 0.0, 0.0)]
        record.failures += own.failures
    for connection in connections:
        connection.close()


def percentile(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


def summary(record: Record, spec: Spec) -> dict[str, Any]:
    """Milliseconds; by status, and accepted answers second by second."""
    by_status: dict[int, list[float]] = {}
    for answer in record.answers:
        by_status.setdefault(answer.status, []).append(answer.seconds * 1e3)
    result: dict[str, Any] = {
        "statuses": {str(status): len(times) for status, times in sorted(by_status.items())},
        "failures": dict(record.failures),
        "generator_seconds": round(time.process_time(), 2),
        "milliseconds": {
            str(status): {
                name: round(value, 3) if value is not None else None
                for name, value in (
                    ("p50", percentile(ordered, 0.5)),
                    ("p99", percentile(ordered, 0.99)),
                    ("max", ordered[-1]),
                )
            }
            for status, times in by_status.items()
            for ordered in [sorted(times)]
        },
    }
    if spec.mode == "once":
        result["answers"] = [
            {"status": a.status, "body": a.body.decode("utf-8", "replace")} for a in record.answers
        ]
    else:
        good = Counter(int(a.at) for a in record.answers if a.status == 200)
        result["per_second"] = [good[second] for second in range(int(spec.seconds))]
    return result


def main() -> None:
    spec = Spec(**json.load(sys.stdin))
    requests = [base64.b64decode(request) for request in spec.requests]
    run = {"closed": closed, "open": opened, "once": once}[spec.mode]
    record = Record()
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        runner.run(run(spec, requests, record))
    json.dump(summary(record, spec), sys.stdout)


if __name__ == "__main__":
    main()
