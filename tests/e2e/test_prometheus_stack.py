"""A real Prometheus scrapes a really started service: every panel and rule gives an answer.

On Debian: apt-get install --no-install-recommends prometheus
"""

import json
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pictures import npy
from tiny_bundle import id_images

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
SMOKE = DEPLOY / "smoke.py"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
MISSING = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
# no shorter: on a busy machine a scrape takes seconds, and no timeout may pass the interval
SCRAPE_INTERVAL = "3s"
PATIENCE_SECONDS = 120.0
# no statistic of drift is given for fewer than 200
BATCH = 250

pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"not on the PATH: {', '.join(MISSING)} (Debian package prometheus)"
)


def promtool(*arguments: object, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"after {PATIENCE_SECONDS} s still not: {what}"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@contextmanager
def running(command: list[str | Path], ready: str, log: Path, **options: Any) -> Iterator[None]:
    """A process that answers `ready`; ended, by its own id, whatever happens."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, **options)
    try:
        wait_until(lambda: process.poll() is not None or answers(ready), f"{ready}\n{command}")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Stack:
    """Addresses of a service and of the Prometheus that scrapes it."""

    service: str
    prometheus: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(
            f"{self.prometheus}/api/v1/query",
            params={"query": expression},
            trust_env=False,
            timeout=PATIENCE_SECONDS,
        )
        assert answer.status_code == httpx.codes.OK, f"{expression}\n{answer.text}"
        return answer.json()["data"]["result"]

    def send_traffic(self) -> None:
        """Good requests, one bad input among good ones, and one request refused as a whole."""
        picture = runpy.run_path(str(SMOKE))["grey_ramp_png"]
        with httpx.Client(
            base_url=self.service, trust_env=False, timeout=PATIENCE_SECONDS
        ) as client:
            png = {"Content-Type": "image/png"}
            for side in (8, 16, 32):
                answer = client.post("/score", content=picture(side), headers=png)
                assert answer.status_code == httpx.codes.OK, answer.text
            files = [("file", ("a.png", picture())), ("file", ("b.png", b"no picture"))]
            assert client.post("/score", files=files).status_code == httpx.codes.OK
            answer = client.post("/score", content=b"no picture", headers=png)
            assert answer.is_client_error, answer.text
            assert client.get("/models").status_code == httpx.codes.OK
            self.score(id_images(BATCH, 800))

    def score(self, images: NDArray[np.uint8]) -> None:
        """Images (n, 8, 8, 1) in one request."""
        headers = {"Content-Type": "application/x-npy"}
        answer = httpx.post(
            f"{self.service}/score",
            content=npy(images),
            headers=headers,
            trust_env=False,
            timeout=PATIENCE_SECONDS,
        )
        assert answer.status_code == httpx.codes.OK, answer.text


def prometheus_config(
    stack: Stack, rules: Path = PROMETHEUS, alertmanager: str | None = None
) -> dict[str, Any]:
    """The shipped configuration, faster and with addresses in place of container names."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(
        ("scrape_interval", "scrape_timeout", "evaluation_interval"), SCRAPE_INTERVAL
    )
    config["rule_files"] = [str(rules / pattern) for pattern in config["rule_files"]]
    addresses = {"oodscore": stack.service, "prometheus": stack.prometheus}
    if alertmanager is None:
        del config["alerting"]
    else:
        addresses["alertmanager"] = alertmanager
        config["alerting"]["alertmanagers"] = [{"static_configs": [_target(alertmanager)]}]
    jobs = [job for job in config["scrape_configs"] if job["job_name"] in addresses]
    for job in jobs:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [_target(addresses[job["job_name"]])]
    return config | {"scrape_configs": jobs}


def _target(url: str) -> dict[str, list[str]]:
    return {"targets": [url.removeprefix("http://")]}


@contextmanager
def serving_and_watched(
    stack: Stack, config: dict[str, Any], models_dir: Path, folder: Path
) -> Iterator[None]:
    """The service and a Prometheus with that configuration."""
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    serve = running(
        [Path(sys.executable).parent / "oodscore", "serve"],
        f"{stack.service}/readyz",
        folder / "service.log",
        env={
            "OODSCORE_HOST": "127.0.0.1",
            "OODSCORE_PORT": stack.service.rpartition(":")[2],
            "OODSCORE_MODELS_DIR": str(models_dir),
            "OODSCORE_SHUTDOWN_DELAY_SECONDS": "0",
            "ORT_DISABLE_TELEMETRY": "1",
        },
    )
    watch = running(
        [
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={stack.prometheus.removeprefix('http://')}",
            "--log.level=warn",
        ],
        f"{stack.prometheus}/-/ready",
        folder / "prometheus.log",
    )
    with serve, watch:
        # A rate needs two scrapes with something between them, also of labels seen only now.
        wait_until(lambda: bool(stack.query('up{job="oodscore"} == 1')), "the first scrape")
        yield


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(*(f"http://127.0.0.1:{free_port()}" for _ in range(2)))
    with serving_and_watched(stack, prometheus_config(stack), models_dir, folder):
        stack.send_traffic()
        wait_until(lambda: bool(stack.query("oodscore_rejected_inputs_total > 0")), "a scrape")
        stack.send_traffic()
        wait_until(lambda: bool(stack.query("oodscore_rejected_inputs_total > 1")), "a scrape")
        wait_until(
            lambda: bool(stack.query("oodscore:rejected_inputs:rate5m > 0")), "the rules' results"
        )
        for last in ("drift_psi:of_alarm", "label_shift_alarm_level:1h", "ood_burn_by_chance:6h"):
            wait_until(lambda name=last: bool(stack.query(f"oodscore:{name}")), last)
        yield stack


def panel_queries() -> list[Any]:
    found = []
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                name = f"{path.stem}-{panel['title']}-{target['refId']}".replace(" ", "_")
                found.append(pytest.param(target["expr"], id=name))
    return found


def annotation_queries() -> list[Any]:
    return [
        pytest.param(note["expr"], id=f"{path.stem}-{note['name']}")
        for path in DASHBOARDS
        for note in json.loads(path.read_text())["annotations"]["list"]
    ]


def variable_queries() -> list[Any]:
    return [
        pytest.param(variable["query"]["query"], id=f"{path.stem}-{variable['name']}")
        for path in DASHBOARDS
        for variable in json.loads(path.read_text())["templating"]["list"]
        if variable["type"] == "query"
    ]


def recording_rules() -> list[str]:
    return sorted(
        {
            rule["record"]
            for path in (PROMETHEUS / "rules").glob("*.yml")
            for group in yaml.safe_load(path.read_text())["groups"]
            for rule in group["rules"]
            if "record" in rule
        }
    )


def filled_in(query: str) -> str:
    """As Grafana sends it with everything selected."""
    query = re.sub(r"\$(__rate_interval|__interval|__range)", "1m", query)
    return re.sub(r"\$\w+", ".*", query)


@pytest.mark.parametrize("query", panel_queries())
def test_every_panel_shows_something(stack: Stack, query: str) -> None:
    wait_until(lambda: bool(stack.query(filled_in(query))), filled_in(query))
    samples = stack.query(filled_in(query))
    assert all(sample["value"][1] != "NaN" for sample in samples), samples


@pytest.mark.parametrize("query", annotation_queries())
def test_every_annotation_can_be_asked_for(stack: Stack, query: str) -> None:
    stack.query(filled_in(query))


@pytest.mark.parametrize("query", variable_queries())
def test_every_variable_offers_values(stack: Stack, query: str) -> None:
    call = re.fullmatch(r"label_values\((.*), (\w+)\)", filled_in(query))
    assert call is not None
    series, label = call.groups()
    assert {sample["metric"][label] for sample in stack.query(series)}


@pytest.mark.parametrize("record", recording_rules())
def test_every_recording_rule_gives_values(stack: Stack, record: str) -> None:
    samples = stack.query(record)
    assert samples
    assert all(sample["value"][1] != "NaN" for sample in samples), samples


def test_no_rule_fails(stack: Stack) -> None:
    groups = httpx.get(f"{stack.prometheus}/api/v1/rules", trust_env=False).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    assert {rule["health"] for rule in rules} == {"ok"}


def test_prometheus_counts_what_was_sent(stack: Stack) -> None:
    # Two rounds of send_traffic: three single pictures, one good part and one batch each.
    expected = str(2 * (3 + 1 + BATCH))
    assert stack.query("sum(oodscore_decisions_total)")[0]["value"][1] == expected
    (ratio,) = stack.query("oodscore:ood_ratio:rate5m")
    assert 0 <= float(ratio["value"][1]) <= 1


def test_metrics_follow_the_naming_rules(stack: Stack) -> None:
    promtool("check", "metrics", stdin=httpx.get(f"{stack.service}/metrics", trust_env=False).text)


def test_smoke_script_passes_on_a_running_service(stack: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-I", SMOKE, stack.service], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answered" in done.stdout


def test_the_shipped_configuration_is_valid() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))


@pytest.mark.parametrize(
    "path", sorted((PROMETHEUS / "tests").glob("*.yml")), ids=lambda path: path.stem
)
def test_rules_pass_their_unit_tests(path: Path) -> None:
    promtool("test", "rules", path)
