"""How long does a caller wait at half of the capacity?  python -m benchmarks.service.half_load

Requests at a steady rate for twenty seconds, whatever the answers do: at half of the peak, which
full batches make possible, and at half of what is answered one at a time.  Beside them the bare
session, given as many: what the machine makes callers wait where there is no service at all; and
its inference of one input with nothing else running.  And what a service that nobody asks takes
of a processor.  Writes results/service_half_load.json.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import environment
from benchmarks.service.contenders import CONTENDERS, Setting
from benchmarks.service.servers import Server, run_load
from benchmarks.service.workloads import WORKLOADS, alone, bodies, open_model, paced
from service.loading import LoadedBundle

RESULT = Path(__file__).parents[1] / "results" / "service_half_load.json"
SHARE, CONNECTIONS = 0.5, 200
CONCURRENCIES = {"half of the peak": 32, "half of one at a time": 1}
NAMES = ("png-small", "png", "text")


def measure(server: Server, requests: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """Of the service; for each load its rate, and milliseconds."""

    def closed(concurrency: int, length: float) -> float:
        found = run_load(
            server.port, requests, mode="closed", seconds=length, concurrency=concurrency
        )
        return found["statuses"]["200"] / length

    loads: dict[str, Any] = {}
    for load, concurrency in CONCURRENCIES.items():
        closed(concurrency, min(3.0, seconds))
        rate = SHARE * closed(concurrency, min(6.0, seconds))
        found = run_load(
            server.port, requests, mode="open", seconds=seconds, rate=rate, connections=CONNECTIONS
        )
        loads[load] = {
            "requests_per_second": round(rate, 1),
            "statuses": found["statuses"],
            "milliseconds": found["milliseconds"]["200"],
        }
    time.sleep(1.0)
    before = server.cpu_seconds()
    time.sleep(seconds)
    return {
        "loads": loads,
        "idle_share_of_a_processor": round((server.cpu_seconds() - before) / seconds, 4),
    }


def of_the_bare_session(
    bundle: LoadedBundle, kind: str, rate: float, seconds: float
) -> dict[str, float]:
    """Milliseconds, at `rate` requests a second; as the load generator counts them."""
    took = paced(bundle, kind, rate, seconds)
    p50, p99, longest = np.quantile(took, [0.5, 0.99, 1.0], method="higher").tolist()
    return {"p50": round(p50, 3), "p99": round(p99, 3), "max": round(longest, 3)}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.half_load")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--workloads", default=",".join(NAMES))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--quick", action="store_true", help="two seconds; writes nothing")
    arguments = parser.parse_args(given)
    seconds = 2.0 if arguments.quick else arguments.seconds
    ours = CONTENDERS["oodscore"]
    record: dict[str, Any] = {"workloads": {}}
    for name in arguments.workloads.split(","):
        workload = WORKLOADS[name]
        bundle = open_model(arguments.models.resolve(), workload.model)
        given_bodies, content_type = bodies(bundle, workload.kind)
        inference = alone(bundle, workload.kind)
        with tempfile.TemporaryDirectory() as logs:
            setting = Setting(bundle.ref.path, 1, Path(logs), Path())
            requests = [ours.request(setting, body, content_type) for body in given_bodies]
            server = ours.start(setting, requests[0])
            try:
                found = measure(server, requests, seconds)
            finally:
                server.stop()
        for load in found["loads"].values():
            load["bare_milliseconds"] = of_the_bare_session(
                bundle, workload.kind, load["requests_per_second"], seconds
            )
        found["inference_milliseconds"] = (inference + alone(bundle, workload.kind)) / 2
        record["workloads"][name] = {"title": workload.title, **found}
    record["environment"] = environment()
    json.dump(record, sys.stdout, indent=1)
    if not arguments.quick:
        RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
