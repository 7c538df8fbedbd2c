"""Headers that hold browsers back, pages of other origins, the documentation's own files."""

import re
from pathlib import Path

import httpx
import pytest
import yaml
from live_server import LiveServer, live_server
from pictures import id_png
from pydantic import ValidationError
from test_page import Page
from test_refusals import assert_problem

from service.security_headers import DEFAULTS
from service.settings import Settings

PNG = {"Content-Type": "image/png"}
HERE, ELSEWHERE = "https://app.example", "https://evil.example"


def single(response: httpx.Response, name: str) -> str:
    (value,) = response.headers.get_list(name)
    return value


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/models", 200),
        ("GET", "/models/nope", 404),
        ("GET", "/nope", 404),
        ("PUT", "/score", 405),
        ("POST", "/score", 400),
        ("GET", "/metrics", 200),
        ("GET", "/livez", 200),
        ("GET", "/admin", 404),
    ],
)
def test_answers_allow_nothing(client: httpx.Client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    for name, value in DEFAULTS.items():
        assert single(answer, name) == value


def test_errors_of_the_service_have_the_headers_too(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError

    monkeypatch.setattr(server.runtime, "require_repository", broken)
    answer = server.client.get("/models")
    assert answer.status_code == 500
    assert single(answer, "x-content-type-options") == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs", "/page/script.js", "/docs/docs.js"])
def test_pages_run_their_own_files_and_nothing_inline(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in single(answer, "content-security-policy").split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    for name in ("X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options"):
        assert single(answer, name) == DEFAULTS[name]


def test_documentation_comes_from_here(client: httpx.Client) -> None:
    page = Page(client.get("/docs").text)
    linked = [*page.having("src"), *page.having("href")]
    assert len(linked) == 5
    for target in linked:
        assert client.get(f"/{target}").status_code == 200
    assert "SwaggerUIBundle" in client.get("/docs/swagger-ui-bundle.js").text
    assert "unsafe" not in client.get("/docs").headers["content-security-policy"].replace(
        "style-src 'self' 'unsafe-inline'", ""
    )
    for name in ("nope.js", "index.html", "..%2fdocs.html", "__init__.py"):
        assert_problem(client.get(f"/docs/{name}"), 404, "not_found")
    assert client.get("/redoc").status_code == 404


def test_no_page_of_another_origin_reads_an_answer(client: httpx.Client) -> None:
    answer = client.post("/score", content=id_png(), headers=PNG | {"Origin": ELSEWHERE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = client.options(
        "/score", headers={"Origin": ELSEWHERE, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_named_origins_may(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODSCORE_CORS_ORIGINS", f"{HERE}, http://127.0.0.1:3000")
    with live_server(models_dir, default_image_model="tiny") as running:
        ask = running.client
        answer = ask.post("/score", content=id_png(), headers=PNG | {"Origin": HERE})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == HERE
        assert "access-control-allow-credentials" not in answer.headers
        # a page may read why it is refused
        refused = ask.post("/score", headers=PNG | {"Origin": HERE})
        assert refused.headers["access-control-allow-origin"] == HERE
        preflight = ask.options(
            "/score",
            headers={
                "Origin": HERE,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, content-type",
            },
        )
        assert preflight.status_code == 200
        assert single(preflight, "x-content-type-options") == "nosniff"
        other = ask.post("/score", content=id_png(), headers=PNG | {"Origin": ELSEWHERE})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    "origin", ["app.example", "https://app.example/", "https://*.example", "null", "ftp://x"]
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(origin)):
        Settings(cors_origins=frozenset({origin}))


def test_the_image_runs_as_nobody_on_a_root_it_cannot_write() -> None:
    """SECURITY.md says so of the image and of compose; test_deploy_files.py holds the details."""
    root = Path(__file__).parents[2]
    last_stage = (root / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["10001:10001"]
    service = yaml.safe_load((root / "docker-compose.yml").read_text())["services"]["oodscore"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service  # the image's
    # what the service keeps over a restart, and nothing of the host
    assert [v for v in service["volumes"] if not v.endswith(":ro")] == ["oodscore-state:/state"]
    assert all("size=" in mount for mount in service["tmpfs"])
