"""What do callers feel of a model's new version?  python -m benchmarks.service.swaps

Requests at half of the peak rate, for a minute without and a minute with a new version of the model
published every 1.2 seconds (the same network under another number, found by the watched folder, the
version before the last one taken away); then without again.  Told are latency, what was lost, and
the versions that answered.  Writes results/service_swaps.json.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.service.contenders import CONTENDERS, Setting
from benchmarks.service.servers import Server, run_load
from benchmarks.service.workloads import WORKLOADS, bodies, open_model
from service.bundle import BundleRef, publish, read_manifest, write_manifest

RESULT = Path(__file__).parents[1] / "results" / "service_swaps.json"
SHARE, CONNECTIONS, CONCURRENCY = 0.5, 200, 32
SWAPS, EVERY_SECONDS, WATCH_SECONDS = 50, 1.2, 0.3


def publish_again(bundle: Path, models: Path, name: str, number: int) -> BundleRef:
    """That bundle as version `number` of `name`."""
    temporary = models / ".workshop"
    shutil.copytree(bundle, temporary)
    manifest = read_manifest(temporary)
    write_manifest(temporary, manifest.model_copy(update={"version": str(number)}))
    return publish(temporary, models, name)


class Swapping(threading.Thread):
    """Publishes one version after another, while requests come."""

    def __init__(self, bundle: Path, models: Path, name: str, swaps: int) -> None:
        super().__init__()
        self._arguments = (bundle, models, name)
        self._swaps = swaps

    def run(self) -> None:
        models, name = self._arguments[1:]
        began = time.monotonic()
        for swap in range(self._swaps):
            number = swap + 2
            publish_again(*self._arguments, number)
            if number > 2:
                shutil.rmtree(models / name / str(number - 2))
            time.sleep(max(0.0, began + (swap + 1) * EVERY_SECONDS - time.monotonic()))


def served_version(server: Server, name: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/models/{name}") as answer:
        return json.load(answer)["version"]


def measure(
    server: Server, requests: Sequence[bytes], swapping: Swapping, swaps: int, name: str
) -> dict[str, Any]:
    length = swaps * EVERY_SECONDS

    def closed(seconds: float) -> float:
        found = run_load(
            server.port, requests, mode="closed", seconds=seconds, concurrency=CONCURRENCY
        )
        return found["statuses"]["200"] / seconds

    closed(3.0)
    rate = SHARE * closed(min(8.0, length))

    def constant() -> dict[str, Any]:
        found = run_load(
            server.port,
            requests,
            mode="open",
            seconds=length,
            rate=rate,
            connections=CONNECTIONS,
        )
        others = {status: n for status, n in found["statuses"].items() if status != "200"}
        return {
            "answered": found["statuses"].get("200", 0),
            "lost": sum(others.values()) + sum(found["failures"].values()),
            "milliseconds": found["milliseconds"]["200"],
        }

    before = constant()
    swapping.start()
    during = constant()
    swapping.join()
    last = str(swaps + 1)
    deadline = time.monotonic() + 10
    while (version := served_version(server, name)) != last and time.monotonic() < deadline:
        time.sleep(0.1)
    if version != last:
        raise RuntimeError(f"version {version} answers, {last} was published")
    return {
        "requests_per_second": round(rate, 1),
        "swaps": swaps,
        "every_seconds": EVERY_SECONDS,
        "before": before,
        "during": during,
        "after": constant(),
        "resident_mib": round(server.resident_bytes() / 2**20, 1),
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.swaps")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--workload", default="png-small")
    parser.add_argument("--quick", action="store_true", help="three swaps; writes nothing")
    arguments = parser.parse_args(given)
    workload = WORKLOADS[arguments.workload]
    bundle = open_model(arguments.models.resolve(), workload.model)
    given_bodies, content_type = bodies(bundle, workload.kind)
    ours = CONTENDERS["oodscore"]
    swaps = 3 if arguments.quick else SWAPS
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        first = publish_again(bundle.ref.path, models, bundle.name, 1)
        setting = Setting(first.path, 1, Path(folder), Path())
        requests = [ours.request(setting, body, content_type) for body in given_bodies]
        watch = {"OODSCORE_RELOAD_SECONDS": f"{WATCH_SECONDS:g}"}
        server = ours.start(setting, requests[0], watch)
        try:
            swapping = Swapping(bundle.ref.path, models, bundle.name, swaps)
            found = measure(server, requests, swapping, swaps, bundle.name)
        finally:
            server.stop()
    record = {"environment": environment(), "workload": workload.title, **found}
    json.dump(record, sys.stdout, indent=1)
    if not arguments.quick:
        RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
