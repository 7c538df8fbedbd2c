"""Five times what the service can do:  python -m benchmarks.service.overload

Peak throughput in a closed loop; then requests at five times that rate for a minute, whatever the
answers do; then the closed loop again, for two seconds and once more at length.  Told are: answers
a second beside the peak's, their p99 beside the deadline every request carries, how fast the others
are refused, memory, and the first two seconds after.  Writes results/service_overload.json.
"""

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environment import environment
from benchmarks.service.contenders import CONTENDERS, Setting
from benchmarks.service.servers import Server, http_request, run_load
from benchmarks.service.workloads import WORKLOADS, bodies, open_model

RESULT = Path(__file__).parents[1] / "results" / "service_overload.json"
TIMES, DEADLINE_SECONDS, CONNECTIONS, CONCURRENCY = 5, 5.0, 800, 32


@contextmanager
def watched(server: Server, every_seconds: float = 1.0) -> Generator[list[float]]:
    """Resident memory in MiB, time after time."""
    seen: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(every_seconds):
            seen.append(round(server.resident_bytes() / 2**20, 1))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def measure(server: Server, requests: Sequence[bytes], seconds: float) -> dict[str, Any]:
    def closed(length: float) -> dict[str, Any]:
        return run_load(
            server.port, requests, mode="closed", seconds=length, concurrency=CONCURRENCY
        )

    def peak_rate() -> float:
        length = max(5.0, seconds / 6)
        return closed(length)["statuses"]["200"] / length

    closed(3.0)
    before = peak_rate()
    memory_before = server.resident_bytes() / 2**20
    processor_before = server.cpu_seconds()
    with watched(server) as memory:
        over = run_load(
            server.port,
            requests,
            mode="open",
            seconds=seconds,
            rate=TIMES * before,
            connections=CONNECTIONS,
        )
    processor = server.cpu_seconds() - processor_before
    after = closed(2.0)
    # what the machine gives moves within minutes: the peak is that of before and after
    peak = (before + peak_rate()) / 2
    good = over["statuses"].get("200", 0) / seconds
    times = over["milliseconds"]
    return {
        "peak_per_second": round(peak, 1),
        "peak_before_per_second": round(before, 1),
        "offered_per_second": round(TIMES * before, 1),
        "good_per_second": round(good, 1),
        "goodput": round(good / peak, 3),
        "statuses": over["statuses"],
        "failures": over["failures"],
        "good_by_second": over["per_second"],
        "accepted_milliseconds": times.get("200"),
        "refused_milliseconds": times.get("429"),
        "processor_seconds": {
            "server": round(processor, 1),
            "generator": over["generator_seconds"],
        },
        "deadline_milliseconds": DEADLINE_SECONDS * 1e3,
        "memory_mib": {
            "before": round(memory_before, 1),
            "highest": max(memory, default=None),
            "last": memory[-1] if memory else None,
        },
        "recovery": round(after["statuses"].get("200", 0) / 2.0 / peak, 3),
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.overload")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--workload", default="png")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="six seconds; writes nothing")
    arguments = parser.parse_args(given)
    workload = WORKLOADS[arguments.workload]
    bundle = open_model(arguments.models.resolve(), workload.model)
    given_bodies, content_type = bodies(bundle, workload.kind)
    deadline = {"X-Request-Timeout": f"{DEADLINE_SECONDS:g}"}
    ours = CONTENDERS["oodscore"]
    with tempfile.TemporaryDirectory() as logs:
        setting = Setting(
            bundle.ref.path, bundle.session("forward.onnx").threads, Path(logs), Path()
        )
        requests = [
            http_request(ours.path(setting), body, content_type, deadline) for body in given_bodies
        ]
        server = ours.start(setting, requests[0])
        try:
            found = measure(server, requests, 6.0 if arguments.quick else arguments.seconds)
        finally:
            server.stop()
    record = {"environment": environment(), "workload": workload.title, **found}
    json.dump(record, sys.stdout, indent=1)
    if not arguments.quick:
        RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
