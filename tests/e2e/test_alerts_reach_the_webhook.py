"""Drift comes, the alert reaches the example webhook, the drift goes, the webhook hears of it.

The shipped rules with every duration divided by SPEED_UP: the same expressions, an hour as
40 seconds.  On Debian: apt-get install --no-install-recommends prometheus prometheus-alertmanager
"""

import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from test_prometheus_stack import (
    DEPLOY,
    MISSING,
    PROMETHEUS,
    Stack,
    free_port,
    prometheus_config,
    running,
    serving_and_watched,
    wait_until,
)
from tiny_bundle import id_images, ood_images

ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
SPEED_UP = 90
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ROUND = 40  # inputs a request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING) or ALERTMANAGER is None,
        reason="prometheus or alertmanager is not on the PATH "
        "(Debian packages prometheus, prometheus-alertmanager)",
    ),
]


def shortened(duration: str, shortest: int = 0) -> str:
    number, unit = int(duration[:-1]), duration[-1]
    return f"{max(shortest, number * _SECONDS[unit] * 1000 // SPEED_UP)}ms"


def fast_rules(folder: Path) -> Path:
    """The shipped rules with shorter ranges, offsets and waits."""
    (folder / "rules").mkdir()
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = path.read_text()
        # a rate needs several scrapes
        text = re.sub(r"\[(\d+[smhd])\]", lambda m: f"[{shortened(m[1], 12_000)}]", text)
        text = re.sub(r"\b(offset|for:) (\d+[smhd])\b", lambda m: f"{m[1]} {shortened(m[2])}", text)
        (folder / "rules" / path.name).write_text(text)
    return folder


def alertmanager_config(webhook: str) -> dict[str, Any]:
    """The shipped routes, without waiting."""
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "100ms", "group_interval": "500ms"}
    config["receivers"][0]["webhook_configs"][0]["url"] = webhook
    return config


@contextmanager
def traffic(stack: Stack, drifted: threading.Event) -> Iterator[None]:
    """ID inputs all the time; while `drifted` is set, four of five are OOD."""
    end = threading.Event()
    failures: list[BaseException] = []

    def images(number: int) -> NDArray[np.uint8]:
        strange = ROUND * 4 // 5 if drifted.is_set() else 0
        ordinary = id_images(ROUND - strange, 10_000 + number)
        return np.concatenate([ordinary, ood_images(strange, 20_000 + number)])

    def send() -> None:
        number = 0
        try:
            while not end.wait(0.2):
                stack.score(images(number))
                number += 1
        except BaseException as exc:
            failures.append(exc)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        end.set()
        sender.join()
    assert not failures


def test_drift_is_reported_and_its_end_too(models_dir: Path, tmp_path: Path) -> None:
    stack = Stack(*(f"http://127.0.0.1:{free_port()}" for _ in range(2)))
    alertmanager, webhook = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    routes = tmp_path / "alertmanager.yml"
    routes.write_text(yaml.safe_dump(alertmanager_config(webhook)))
    received = tmp_path / "webhook.log"
    listen = running(
        [sys.executable, DEPLOY / "alertmanager" / "webhook.py", webhook.rpartition(":")[2]],
        webhook,
        received,
    )
    route = running(
        [
            str(ALERTMANAGER),
            f"--config.file={routes}",
            f"--storage.path={tmp_path / 'alertmanager'}",
            f"--web.listen-address={alertmanager.removeprefix('http://')}",
            "--cluster.listen-address=",
        ],
        f"{alertmanager}/-/ready",
        tmp_path / "alertmanager.log",
    )

    def heard(alert: str, status: str) -> list[dict[str, str]]:
        lines = [json.loads(line) for line in received.read_text().splitlines()]
        return [one for one in lines if (one["alertname"], one["status"]) == (alert, status)]

    config = prometheus_config(stack, fast_rules(tmp_path), alertmanager)
    drifted = threading.Event()
    watched = ("OodscoreOodRateFast", "OodscoreDriftLasting")
    serving = serving_and_watched(stack, config, models_dir, tmp_path)
    with listen, route, serving, traffic(stack, drifted):
        enough = "sum(oodscore_decisions_total) > 1000"
        wait_until(lambda: bool(stack.query(enough)), enough)
        assert not any(heard(alert, "firing") for alert in watched)

        drifted.set()
        for alert in watched:
            wait_until(lambda name=alert: bool(heard(name, "firing")), f"{alert} firing")
        (first, *_) = heard("OodscoreOodRateFast", "firing")
        assert first["severity"] == "page"
        assert first["detector"] == "combined"
        assert first["model"] == "other"
        assert re.fullmatch(r"other 1: OOD rate at [\d.]+ times its promise", first["summary"])
        assert first["runbook"] == "docs/runbook.md#oodscoreoodratefast"

        drifted.clear()
        for alert in watched:
            wait_until(lambda name=alert: bool(heard(name, "resolved")), f"{alert} resolved")


def test_only_durations_differ(tmp_path: Path) -> None:
    fast_rules(tmp_path)
    duration = r"\d+(ms|[smhd])\b"
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        fast = (tmp_path / "rules" / path.name).read_text()
        assert re.sub(duration, "", fast) == re.sub(duration, "", path.read_text())
        assert fast != path.read_text()
