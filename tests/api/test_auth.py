"""API keys: who is let in where, what they are told, what the log and the metrics say of it."""

import logging
import pkgutil
import re
import time
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from live_server import LiveServer, live_server
from pictures import id_png
from test_refusals import assert_problem

import service.routes
from service import key_watch
from service.api_keys import entry_of, new_secret, parse_entries
from service.app import create_app
from service.settings import Settings

PNG = {"Content-Type": "image/png"}
SECRETS = {name: new_secret() for name in ("web", "prometheus", "ops")}
SCOPES = {"web": "score", "prometheus": "metrics", "ops": "admin"}
ENTRIES = [entry_of(name, SCOPES[name], secret) for name, secret in SECRETS.items()]
# what anybody may ask for: static files, documentation, probes
OPEN = {
    "/",
    "/page/{name}",
    "/docs",
    "/docs/{name}",
    "/openapi.json",
    "/livez",
    "/readyz",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
}


@pytest.fixture(scope="module")
def closed(models_dir: Path) -> Generator[LiveServer]:
    keys = parse_entries(ENTRIES)
    with live_server(models_dir, default_image_model="tiny", api_keys=keys) as running:
        yield running


@pytest.fixture
def client(closed: LiveServer) -> httpx.Client:
    return closed.client


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}"}


def api_routes() -> list[APIRoute]:
    """Every route of the service, also those in no document."""
    modules = [
        import_module(f"service.routes.{module.name}")
        for module in pkgutil.iter_modules(service.routes.__path__)
    ]
    routers = [x for module in modules for x in vars(module).values() if isinstance(x, APIRouter)]
    # what is no APIRoute is a router within another
    return [r for router in routers for r in router.routes if isinstance(r, APIRoute)]


def routes() -> set[tuple[str, str]]:
    """(method, path) of all of them."""
    return {(method, route.path) for route in api_routes() for method in route.methods}


def test_without_keys_everybody_scores_and_nobody_administers(server: LiveServer) -> None:
    assert server.client.post("/score", content=id_png(), headers=PNG).status_code == 200
    for path in ("/models", "/metrics", "/drift"):
        assert server.client.get(path).status_code == 200
    # a key that nobody asked for is no mistake
    answer = server.client.post("/score", content=id_png(), headers=PNG | bearer("web"))
    assert answer.status_code == 200


@pytest.mark.parametrize("how", ["Authorization", "authorization", "X-API-Key"])
def test_a_key_lets_in(client: httpx.Client, how: str) -> None:
    scheme = "" if how == "X-API-Key" else "bEARER  "
    headers = PNG | {how: scheme + SECRETS["web"]}
    assert client.post("/score", content=id_png(), headers=headers).status_code == 200


def test_no_key(client: httpx.Client) -> None:
    answer = client.post("/score", content=id_png(), headers=PNG)
    assert_problem(answer, 401, "key_missing")
    assert answer.headers["www-authenticate"] == 'Bearer realm="oodscore"'


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer oodscore_" + "x" * 43},
        {"Authorization": f"Bearer {SECRETS['web']}x"},
        {"Authorization": f"Bearer {SECRETS['web'][:-1]}"},
        {"Authorization": "Bearer " + "y" * 5000},
        {"X-API-Key": "\xff\xfe".encode("latin-1")},
    ],
)
def test_an_unknown_key(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/score", content=id_png(), headers=PNG | headers)
    assert_problem(answer, 401, "key_unknown")
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Basic " + SECRETS["web"]},
        {"X-API-Key": ""},
    ],
)
def test_an_empty_key_is_none(client: httpx.Client, headers: dict[str, str]) -> None:
    assert_problem(client.post("/score", headers=headers), 401, "key_missing")


def test_a_key_in_the_address_is_none(client: httpx.Client) -> None:
    """Addresses end up in the logs of proxies."""
    answer = client.post("/score", params={"api_key": SECRETS["web"]}, headers=PNG)
    assert_problem(answer, 401, "key_missing")
    assert SECRETS["web"] not in answer.text


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/models", {"web", "prometheus", "ops"}),
        ("/models/tiny", {"web", "prometheus", "ops"}),
        ("/metrics", {"prometheus", "ops"}),
        ("/drift", {"prometheus", "ops"}),
    ],
)
@pytest.mark.parametrize("name", ["web", "prometheus", "ops"])
def test_scopes(client: httpx.Client, path: str, allowed: set[str], name: str) -> None:
    answer = client.get(path, headers=bearer(name))
    if name in allowed:
        assert answer.status_code == 200
    else:
        assert_problem(answer, 403, "scope_missing")
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def test_admin_is_no_key_to_score(client: httpx.Client) -> None:
    answer = client.post("/score", content=id_png(), headers=PNG | bearer("ops"))
    assert_problem(answer, 403, "scope_missing")


def test_probes_and_the_page_want_no_key(client: httpx.Client) -> None:
    for path in ("/livez", "/readyz", "/", "/page/script.js", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_every_other_route_wants_one(closed: LiveServer) -> None:
    """Also those that are added later."""
    guarded = sorted((method, path) for method, path in routes() if path not in OPEN)
    assert {("POST", "/score"), ("GET", "/models"), ("GET", "/metrics")} <= set(guarded)
    documented = set(create_app(Settings(models_dir=Path("none"))).openapi()["paths"])
    assert documented <= {path for _, path in routes()}
    for method, path in guarded:
        answer = closed.client.request(method, re.sub(r"\{[^}]*\}", "x", path))
        assert answer.status_code == 401, path
        assert "www-authenticate" in answer.headers
        if not path.startswith("/v2"):  # whose errors have the form of their protocol
            assert_problem(answer, 401, "key_missing")


def test_no_body_is_read_before_the_key() -> None:
    """FastAPI reads the body of a route that declares one before anything else is looked at."""
    found = api_routes()
    assert "/score" in {route.path for route in found}
    assert [route.path for route in found if route.body_field is not None] == []


def test_refusals_come_before_the_body(closed: LiveServer) -> None:
    """A caller without a key sends no 32 MiB into memory."""
    sent = 0

    def body() -> Generator[bytes]:
        nonlocal sent
        for _ in range(3000):
            sent += 1
            yield bytes(10_000)

    try:
        answer = closed.client.post("/score", content=body(), headers=PNG)
    except httpx.WriteError:  # the service closed the connection on the rest
        pass
    else:
        assert_problem(answer, 401, "key_missing")
    assert closed.runtime.open_bodies == 0


def test_metrics_know_keys_by_their_names(client: httpx.Client) -> None:
    def count() -> float:
        text = client.get("/metrics", headers=bearer("prometheus")).text
        line = 'oodscore_key_requests_total{key="web",outcome="accepted"} '
        assert not any(secret in text for secret in SECRETS.values())
        assert {m for m in re.findall(r'key="([^"]*)"', text)} == set(SECRETS)
        return float(next(x for x in text.splitlines() if x.startswith(line)).split()[-1])

    before = count()
    client.post("/score", content=id_png(), headers=PNG | bearer("web"))
    client.post("/score", content=id_png(), headers=PNG | {"X-API-Key": "unknown"})
    assert count() == before + 1


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [getattr(r, "fields", {}) for r in caplog.records if r.name == "oodscore.access"]


def test_the_log_names_the_key_and_does_not_tell_it(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = new_secret()
    with caplog.at_level(logging.DEBUG):
        client.post("/score", content=id_png(), headers=PNG | bearer("web"))
        client.post("/score", content=id_png(), headers=PNG | {"X-API-Key": wrong})
        give_up = time.monotonic() + 20  # a line is written after its answer
        while len(said := access_lines(caplog)) < 2:
            assert time.monotonic() < give_up
            time.sleep(0.005)
    assert said[0]["key"] == "web"
    assert "key" not in said[1]
    everything = "".join(str(vars(record)) for record in caplog.records)
    assert SECRETS["web"] not in everything
    assert wrong not in everything


def test_a_key_has_its_rate_and_no_other(models_dir: Path) -> None:
    keys = parse_entries(ENTRIES)
    settings = {"api_keys": keys, "key_requests_per_second": 0.02, "key_burst": 2}
    with live_server(models_dir, default_image_model="tiny", **settings) as running:
        ask = running.client.get
        assert [ask("/models", headers=bearer("web")).status_code for _ in range(2)] == [200, 200]
        answer = ask("/models", headers=bearer("web"))
        assert_problem(answer, 429, "rate_limited")
        assert 45 <= int(answer.headers["retry-after"]) <= 50
        assert "web" in answer.json()["detail"]
        assert ask("/models", headers=bearer("ops")).status_code == 200
        text = ask("/metrics", headers=bearer("ops")).text
        assert 'oodscore_key_requests_total{key="web",outcome="limited"} 1.0' in text
        assert 'oodscore_rejected_requests_total{reason="rate_limited"} 1.0' in text


def test_documentation_says_which_routes_want_a_key(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    assert document["paths"]["/score"]["post"]["security"]
    assert "security" not in document["paths"]["/livez"]["get"]


def test_a_key_is_taken_out_while_the_service_runs(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "_PAUSE_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text("\n".join(ENTRIES))
    settings = {"key_requests_per_second": 0.001, "key_burst": 2}
    with live_server(models_dir, api_keys_file=file, **settings) as running:
        ask = running.client.get
        assert ask("/models", headers=bearer("web")).status_code == 200
        file.write_text("\n".join(ENTRIES[1:]))
        assert_problem(ask("/models", headers=bearer("web")), 401, "key_unknown")
        assert ask("/models", headers=bearer("ops")).status_code == 200
        file.write_text("\n".join(ENTRIES[1:]) + "\n# the same keys\n")
        assert ask("/models", headers=bearer("ops")).status_code == 200
        # what was used up before the change stays used up
        assert_problem(ask("/models", headers=bearer("ops")), 429, "rate_limited")
