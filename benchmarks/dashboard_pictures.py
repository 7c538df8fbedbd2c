"""Pictures of what the dashboards show during a drift:  python -m benchmarks.dashboard_pictures

Starts the service on models/fashion-mnist and a Prometheus (Debian's) with the shipped rules, sends
garments of test-ID (Debian's dataset-fashion-mnist), then more and more letters of notMNIST (below
OODSCORE_DATA), then garments alone again, twelve minutes in all.  The query of every panel
is then put to that Prometheus, and the answers are drawn: docs/dashboard-<name>.png.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.dashboards.draw import Panel, Reply, draw
from benchmarks.drift.scores import OOD_FILES, test_images
from benchmarks.drift_cost import npy_of, png_of
from benchmarks.text_throughput import start_service

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
DOCS = ROOT / "docs"
MODEL = "fashion-mnist"
VARIABLES = {
    "model": MODEL,
    "version": ".*",
    "detector": "combined|energy|knn|mahalanobis|msp",
    "__rate_interval": "1m",
}
SCRAPE_SECONDS = 15
CALM, DRIFT, AFTER = 240.0, 300.0, 180.0  # seconds
HIGHEST_SHARE = 0.5  # of letters, at the end of the drift
INPUTS_A_REQUEST = (1, 1, 1, 16)
REQUESTS_A_SECOND = 5.0
BROKEN_EVERY = 100  # requests: a cut PNG


@contextlib.contextmanager
def prometheus(service: str, folder: Path) -> Iterator[str]:
    """One that scrapes `service` (host:port), with the shipped rules; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config: dict[str, Any] = {
        "global": {
            "scrape_interval": f"{SCRAPE_SECONDS}s",
            "scrape_timeout": f"{SCRAPE_SECONDS}s",
            "evaluation_interval": f"{SCRAPE_SECONDS}s",
        },
        "rule_files": [str(PROMETHEUS / "rules" / "*.yml")],
        "scrape_configs": [{"job_name": "oodscore", "static_configs": [{"targets": [service]}]}],
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    command = [
        "prometheus",
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    server = subprocess.Popen(command)
    try:
        for _ in range(200):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://{address}/-/ready", trust_env=False).is_success:
                    break
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def share_of_letters(passed: float) -> float:
    """0 while calm and afterwards, rising evenly to HIGHEST_SHARE between."""
    drifting = passed - CALM
    return HIGHEST_SHARE * drifting / DRIFT if 0 <= drifting < DRIFT else 0.0


def send(url: str, garments: NDArray[np.uint8], letters: NDArray[np.uint8], faster: float) -> None:
    """Traffic of CALM + DRIFT + AFTER seconds, divided by `faster`."""
    rng = np.random.default_rng(0)
    began = time.monotonic()
    sent = 0
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        while (passed := (time.monotonic() - began) * faster) < CALM + DRIFT + AFTER:
            size = int(rng.choice(INPUTS_A_REQUEST))
            images = garments[rng.integers(0, len(garments), size)]
            strange = rng.random(size) < share_of_letters(passed)
            images[strange] = letters[rng.integers(0, len(letters), strange.sum())]
            body, kind = (png_of(images[0]), "image/png")
            if size > 1:
                body, kind = npy_of(images), "application/x-npy"
            elif sent % BROKEN_EVERY == 0:
                body = body[:50]
            client.post(
                "/score", params={"model": MODEL}, content=body, headers={"Content-Type": kind}
            )
            sent += 1
            time.sleep(max(0.0, began + sent / REQUESTS_A_SECOND - time.monotonic()))


def filled_in(query: str) -> str:
    """As Grafana sends it."""
    return re.sub(r"\$(\w+)", lambda match: VARIABLES[match[1]], query)


def ask(url: str, target: dict[str, Any], begin: float, end: float) -> Reply:
    """The answer to one query of a panel over the whole time."""
    answer = httpx.get(
        f"{url}/api/v1/query_range",
        params={
            "query": filled_in(target["expr"]),
            "start": begin,
            "end": end,
            "step": SCRAPE_SECONDS,
        },
        trust_env=False,
        timeout=60,
    )
    answer.raise_for_status()
    return Reply(target.get("legendFormat") or "", answer.json()["data"]["result"])


def panels_of(name: str, url: str, begin: float, end: float) -> list[Panel]:
    document = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return [
        Panel(
            title=panel["title"],
            kind=panel["type"],
            unit=panel.get("fieldConfig", {}).get("defaults", {}).get("unit") or "",
            place=panel["gridPos"],
            replies=[ask(url, target, begin, end) for target in panel["targets"]],
        )
        for panel in document["panels"]
    ]


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard_pictures")
    parser.add_argument("--faster", type=float, default=1.0, help="for trying out")
    parser.add_argument("--to", type=Path, default=DOCS, help="folder of the pictures")
    arguments = parser.parse_args(given)
    file = Path(os.environ["OODSCORE_DATA"]) / f"{OOD_FILES['notmnist']}.npz"
    letters = np.load(file)["images"].reshape(-1, 28, 28, 1)
    service, (host, port) = start_service(ROOT / "models", 1)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            prometheus(f"{host}:{port}", Path(folder)) as url,
        ):
            begin = time.time()
            send(f"http://{host}:{port}", test_images(), letters, arguments.faster)
            end = time.time()
            for name in ("overview", "model", "operations"):
                panels = panels_of(name, url, begin, end)
                draw(
                    f"oodscore {name}", panels, (begin, end), arguments.to / f"dashboard-{name}.png"
                )
    finally:
        service.terminate()
        service.wait(timeout=60)


if __name__ == "__main__":
    main()
