"""Whatever clients send, /metrics keeps the series it has: names come from bundles and tables."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pictures import encode, npy
from prometheus_client.parser import text_string_to_metric_families
from tiny_bundle import id_images, ood_images

from service.api_keys import entry_of, new_secret, parse_entries
from service.app import create_app
from service.settings import Settings

Headers = list[tuple[bytes, bytes]]
SCORE, OPS = new_secret(), new_secret()
PNG = encode(id_images(1, 70)[0])
ROWS = npy(ood_images(2, 71))
HOSTILE = 'hostile"\\\n{}é'  # every name sent begins with it


class Client:
    """Straight into the application: a request costs what the service itself spends on it."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: Headers | None = None
    ) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers or [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        status, chunks = 0, list[bytes]()

        sent = False

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:  # the client stays
                await asyncio.Event().wait()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                chunks.append(message.get("body", b""))

        await self._app(scope, receive, send)
        return status, b"".join(chunks)


def key(secret: str) -> Headers:
    return [(b"x-api-key", secret.encode())]


def typed(content_type: str) -> Headers:
    return [(b"content-type", content_type.encode("latin-1")), *key(SCORE)]


def requests(name: str, rng: random.Random) -> list[tuple[str, str, bytes, Headers]]:
    """One of every kind, each holding `name` where a client may put a name of its own."""
    in_url = quote(name, safe="")
    image = typed("image/png")
    body = {"inputs": [{"text": "x"}], "model": name}
    detectors = {"inputs": [{"text": "x"}], "detectors": [name]}
    header = name.encode()[:60].replace(b"\n", b" ")
    method = rng.choice(["GET", "PUT", "PATCH", "OPTIONS", "BREW"])
    return [
        ("POST", f"/score?model={in_url}", PNG, image),
        ("POST", f"/score?version={in_url}", PNG, image),
        ("POST", f"/score?detectors={in_url},energy", PNG, image),
        ("POST", f"/score?{in_url}=1", PNG, image),
        ("POST", f"/score?id_acceptance={in_url}", PNG, image),
        ("POST", "/score", json.dumps(body).encode(), typed("application/json")),
        ("POST", "/score", json.dumps(detectors).encode(), typed("application/json")),
        ("POST", "/score", name.encode(), typed("application/json")),
        ("POST", "/score", PNG, typed(quote(name))),
        ("POST", "/score", name.encode(), image),
        ("POST", "/score", name.encode(), typed(f"multipart/form-data; boundary={in_url[:60]}")),
        ("POST", "/score", ROWS, [*typed("application/x-npy"), (b"x-request-id", header)]),
        ("POST", "/score", PNG, [*image, (b"x-request-timeout", header)]),
        ("POST", "/score", PNG, [*image, (b"user-agent", header), (header.lower(), header)]),
        ("POST", "/score", PNG, [(b"content-type", b"image/png"), (b"x-api-key", header)]),
        ("POST", "/score", PNG, [(b"content-type", b"image/png"), (b"authorization", header)]),
        ("GET", f"/drift?model={in_url}", b"", key(SCORE)),
        ("GET", f"/models/{name}", b"", key(SCORE)),
        ("GET", f"/models/tiny/{name}/report", b"", key(SCORE)),
        ("GET", f"/captures?label={in_url}", b"", key(OPS)),
        ("GET", f"/captures/{name}", b"", key(OPS)),
        ("GET", f"/{name}", b"", key(SCORE)),
        (method, f"/models/{name}/{name}", b"", key(SCORE)),
        (method, "/score", b"", key(SCORE)),
    ]


async def series(client: Client) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    status, text = await client.ask("GET", "/metrics", headers=key(OPS))
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def send(models_dir: Path, captures: Path, total: int) -> None:
    keys = [entry_of("web", "score", SCORE), entry_of("ops", "admin+metrics", OPS)]
    settings = Settings(
        models_dir=models_dir,
        default_image_model="tiny",
        capture_dir=captures,
        api_keys=parse_entries(keys),
        log_level="error",
    )
    app = create_app(settings)
    client = Client(app)
    rng = random.Random(0)  # noqa: S311
    names = (HOSTILE + f"{rng.getrandbits(64):x}-{place}" for place in count())
    async with app.router.lifespan_context(app):
        await app.state.loading
        for method in ("GET", "PUT", "PATCH", "OPTIONS", "BREW"):  # each answers as it does
            for target in ("/models/x/x", "/score"):
                await client.ask(method, target, headers=key(SCORE))
        first = requests(next(names), rng)
        for _ in range(2):
            statuses = [(await client.ask(*one))[0] for one in first]
        assert {200, 400, 401, 404, 405, 415, 422} <= set(statuses)
        await series(client)  # the scrape itself is counted, too
        before = await series(client)
        sent = 0
        while sent < total:
            for one in requests(next(names), rng):
                status, _ = await client.ask(*one)
                assert status < 500
                sent += 1
        after = await series(client)
    assert after == before
    assert not [labels for _, labels in after if "hostile" in str(labels)]
    routes = {value for _, labels in after for label, value in labels if label == "route"}
    assert routes <= {"unmatched", *app.openapi()["paths"]}


def test_hostile_names_add_no_series(models_dir: Path, tmp_path: Path) -> None:
    asyncio.run(send(models_dir, tmp_path, 5_000))


@pytest.mark.slow
def test_a_hundred_thousand_hostile_names_add_no_series(models_dir: Path, tmp_path: Path) -> None:
    asyncio.run(send(models_dir, tmp_path, 100_000))
