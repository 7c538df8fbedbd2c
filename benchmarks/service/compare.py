"""What does a request cost beside its inference?  python -m benchmarks.service.compare

This service, a plain FastAPI + torch + pytorch-ood application and the peers (LitServe, MLServer,
BentoML, Ray Serve), each with the same network and detectors, the same requests and as many
threads an inference, one after the other; before and after each the bare session.  Peers are
started from environments below --environments (`--install` makes them); who is not there is left
out.  CPU milliseconds are those of all processes of a server.  Writes results/service.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environment import environment
from benchmarks.service.contenders import CONTENDERS, LIBRARIES, PACKAGES, Contender, Setting
from benchmarks.service.servers import Server, run_load
from benchmarks.service.workloads import WORKLOADS, Workload, alone, bare, bodies, open_model
from service.bundle import FORWARD
from service.cpus import usable_cpus
from service.graphs import SMALL_NETWORK_SECONDS

RESULT = Path(__file__).parents[1] / "results" / "service.json"
WARM_SECONDS = 1.5
GOOD_NEIGHBOURS, NEIGHBOUR_ROUNDS = 15, 8


def install(environments: Path) -> None:
    """A virtual environment for each peer, the newest versions there are."""
    for name, package in PACKAGES.items():
        folder = environments / name
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", package, *LIBRARIES]
        subprocess.run(pip, check=True)


def measure(server: Server, requests: Sequence[bytes], seconds: float, concurrency: int) -> Any:
    before = server.cpu_seconds()
    found = run_load(server.port, requests, mode="closed", seconds=seconds, concurrency=concurrency)
    cpu = server.cpu_seconds() - before
    answered = found["statuses"].get("200", 0)
    if not answered:
        raise RuntimeError(f"no answer: {found}")
    times = found["milliseconds"]["200"]
    return {
        "cpu_milliseconds": cpu / answered * 1e3,
        "requests_per_second": answered / seconds,
        "p50_milliseconds": times["p50"],
        "p99_milliseconds": times["p99"],
        "lost": sum(found["failures"].values())
        + sum(count for status, count in found["statuses"].items() if status != "200"),
    }


def bad_neighbours(
    contender: Contender, setting: Setting, server: Server, good: bytes
) -> dict[str, Any]:
    """15 good requests and one cut image at once, eight times, cut in its header or its body."""
    content_type = "image/png"
    request = contender.request(setting, good, content_type)
    lost: dict[str, Any] = {}
    for name, length in (("header cut", 20), ("body cut", len(good) * 2 // 3)):
        cut = contender.request(setting, good[:length], content_type)
        missing, statuses = 0, set[int]()
        for _ in range(NEIGHBOUR_ROUNDS):
            found = run_load(server.port, [*[request] * GOOD_NEIGHBOURS, cut], mode="once")
            answers = [answer["status"] for answer in found["answers"]]
            missing += sum(status != 200 for status in answers[:-1])
            statuses.add(answers[-1])
        lost[name] = {
            "good_lost": missing,
            "of": GOOD_NEIGHBOURS * NEIGHBOUR_ROUNDS,
            "cut_answered": sorted(statuses),
        }
    return lost


def one_contender(
    contender: Contender, setting: Setting, workload: Workload, given: Any, seconds: float
) -> dict[str, Any]:
    bodies_, content_type = given
    requests = [contender.request(setting, body, content_type) for body in bodies_]
    server = contender.start(setting, requests[0])
    try:
        found: dict[str, Any] = {"ready_seconds": server.ready_seconds}
        run_load(server.port, requests, mode="closed", seconds=WARM_SECONDS, concurrency=8)
        found["load"] = {
            str(concurrency): measure(server, requests, seconds, concurrency)
            for concurrency in workload.concurrencies
        }
        found["resident_mib"] = server.resident_bytes() / 2**20
        if workload.kind == "png":
            found["neighbours"] = bad_neighbours(contender, setting, server, bodies_[0])
    finally:
        server.stop()
    return found


def one_workload(
    workload: Workload, contenders: Sequence[Contender], arguments: argparse.Namespace, logs: Path
) -> dict[str, Any]:
    bundle = open_model(arguments.models.resolve(), workload.model)
    session = bundle.session(FORWARD)
    # peers get what serves a lone caller soonest; the service tunes itself
    slow = alone(bundle, workload.kind) > SMALL_NETWORK_SECONDS * 1e3
    threads = usable_cpus() if slow else 1
    setting = Setting(bundle.ref.path, threads, logs, arguments.environments)
    given = bodies(bundle, workload.kind)
    rounds: dict[str, list[Any]] = {contender.name: [] for contender in contenders}
    bares: list[dict[str, float]] = []
    failures: dict[str, str] = {}
    for _ in range(arguments.rounds):
        for contender in contenders:
            bares.append(bare(bundle, workload.kind, arguments.seconds / 2))
            try:
                found = one_contender(contender, setting, workload, given, arguments.seconds)
            except RuntimeError as exc:
                failures[contender.name] = str(exc).partition(";")[0]
                print(f"{workload.name}: {contender.name} failed: {exc}")
                continue
            rounds[contender.name].append(found)
            for concurrency, row in found["load"].items():
                print(
                    f"{workload.name} c={concurrency:>3} {contender.name:9} "
                    f"{row['cpu_milliseconds']:8.3f} ms CPU  {row['requests_per_second']:8.1f}/s  "
                    f"p50 {row['p50_milliseconds']:8.2f}  p99 {row['p99_milliseconds']:8.2f} ms  "
                    f"bare {bares[-1]['cpu_milliseconds']:.3f}",
                    flush=True,
                )
    return {
        "title": workload.title,
        "model": f"{bundle.name}/{bundle.version}",
        "scores": len(bundle.plan().detectors),
        "rows_a_request": workload.rows,
        "threads": threads,
        "batch_rows": session.tuning.rows,
        "bare": {name: median(each[name] for each in bares) for name in bares[0]},
        "contenders": {name: combined(found) for name, found in rounds.items() if found},
        "failures": failures,
    }


def combined(rounds: Sequence[Any]) -> dict[str, Any]:
    """Medians over the rounds."""
    first = rounds[0]
    result: dict[str, Any] = {
        "rounds": len(rounds),
        "ready_seconds": median(each["ready_seconds"] for each in rounds),
        "resident_mib": median(each["resident_mib"] for each in rounds),
        "load": {
            concurrency: {
                name: median(each["load"][concurrency][name] for each in rounds) for name in row
            }
            for concurrency, row in first["load"].items()
        },
    }
    if "neighbours" in first:
        result["neighbours"] = first["neighbours"]
    return result


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.compare")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--environments", type=Path, default=Path(".peers").resolve())
    parser.add_argument("--install", action="store_true", help="make the peers' environments")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a second each; writes nothing")
    arguments = parser.parse_args(given)
    if arguments.install:
        install(arguments.environments)
    if arguments.quick:
        arguments.seconds, arguments.rounds = 1.0, 1
    contenders = [
        CONTENDERS[name]
        for name in arguments.contenders.split(",")
        if name not in PACKAGES or (arguments.environments / name).is_dir()
    ]
    record: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as logs:
        some = Setting(Path(), 1, Path(logs), arguments.environments)
        versions = {contender.name: contender.version(some) for contender in contenders}
        for name in arguments.workloads.split(","):
            found = one_workload(WORKLOADS[name], contenders, arguments, Path(logs))
            record.setdefault("workloads", {})[name] = {
                "environment": environment(),
                "versions": versions,
                "seconds": arguments.seconds,
                **found,
            }
            if not arguments.quick:
                RESULT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
