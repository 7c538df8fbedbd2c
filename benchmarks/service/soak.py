"""Does anything grow?  python -m benchmarks.service.soak

Requests at 80 % of the peak rate for twenty minutes; memory, threads and latency by the minute.
Writes results/service_soak.json and docs/soak.png.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.service.contenders import CONTENDERS, Setting
from benchmarks.service.servers import Server, run_load
from benchmarks.service.workloads import WORKLOADS, bodies, open_model

RESULT = Path(__file__).parents[1] / "results" / "service_soak.json"
PICTURE = Path(__file__).parents[2] / "docs" / "soak.png"
SHARE, CONNECTIONS, CONCURRENCY = 0.8, 200, 32


def measure(
    server: Server, requests: Sequence[bytes], minutes: int, slice_seconds: float
) -> dict[str, Any]:
    run_load(server.port, requests, mode="closed", seconds=3.0, concurrency=CONCURRENCY)
    peak_run = run_load(server.port, requests, mode="closed", seconds=8.0, concurrency=CONCURRENCY)
    peak = peak_run["statuses"]["200"] / 8.0
    slices: list[dict[str, Any]] = []
    for _ in range(minutes):
        started, cpu = time.monotonic(), server.cpu_seconds()
        found = run_load(
            server.port,
            requests,
            mode="open",
            seconds=slice_seconds,
            rate=SHARE * peak,
            connections=CONNECTIONS,
        )
        good = found["statuses"].get("200", 0)
        slices.append(
            {
                "answered": good,
                "others": {s: n for s, n in found["statuses"].items() if s != "200"},
                "failures": found["failures"],
                "milliseconds": found["milliseconds"].get("200"),
                "cpu_milliseconds": round((server.cpu_seconds() - cpu) / max(good, 1) * 1e3, 3),
                "resident_mib": round(server.resident_bytes() / 2**20, 1),
                "threads": server.threads,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        print(slices[-1], flush=True)
    return {
        "peak_per_second": round(peak, 1),
        "offered_per_second": round(SHARE * peak, 1),
        "slice_seconds": slice_seconds,
        "slices": slices,
    }


def draw(record: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    slices = record["slices"]
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    minutes = [(n + 1) * record["slice_seconds"] / 60 for n in range(len(slices))]
    memory = [s["resident_mib"] for s in slices]
    above.plot(minutes, memory)
    above.set(ylabel="resident memory, MiB", ylim=(0, 1.2 * max(memory)), xlim=(0, None))
    for name in ("p50", "p99"):
        below.plot(minutes, [s["milliseconds"][name] for s in slices], label=name)
    below.set(xlabel="minutes", ylabel="latency, ms", yscale="log")
    below.xaxis.get_major_locator().set_params(integer=True)
    below.legend()
    figure.savefig(path, dpi=90)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.soak")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--workload", default="png-small")
    parser.add_argument("--minutes", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two slices of 2 s; writes nothing")
    arguments = parser.parse_args(given)
    workload = WORKLOADS[arguments.workload]
    bundle = open_model(arguments.models.resolve(), workload.model)
    given_bodies, content_type = bodies(bundle, workload.kind)
    ours = CONTENDERS["oodscore"]
    minutes, length = (2, 2.0) if arguments.quick else (arguments.minutes, 60.0)
    with tempfile.TemporaryDirectory() as logs:
        setting = Setting(bundle.ref.path, 1, Path(logs), Path())
        requests = [ours.request(setting, body, content_type) for body in given_bodies]
        server = ours.start(setting, requests[0])
        try:
            found = measure(server, requests, minutes, length)
        finally:
            server.stop()
    record = {"environment": environment(), "workload": workload.title, **found}
    if arguments.quick:
        json.dump(record, sys.stdout, indent=1)
        return
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    draw(record, PICTURE)


if __name__ == "__main__":
    main()
