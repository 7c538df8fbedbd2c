"""What does watching for drift cost?  python -m benchmarks.drift_cost

Two processes of the service on models/fashion-mnist, one with OODSCORE_DRIFT_TRACKING and one
without, in turn: garments one a request (PNG) and 64 a request (npy), blocks of both kinds right
after one another.  Each pair of blocks gives a ratio of processor time (of the service's process,
what other programs take left out) and of wall time (the client's included).  A scrape of /metrics
is measured beside them: the report of drift is made there.  The network is the smallest that
ships, so the share is the largest.  Prints the ratios and writes results/drift_cost.json.
"""

import argparse
import http.client
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.environment import environment
from benchmarks.prices.timing import FEWEST_PAIRS, Ratio, median_interval
from benchmarks.text_throughput import Used, start_service
from service.bundle import read_golden, read_manifest

RESULT = Path(__file__).parent / "results" / "drift_cost.json"
MODELS = Path("models")
MODEL, VERSION = "fashion-mnist", "2"
THREADS = 1
SECONDS = 90.0
GARMENTS = 256
# bodies of one block, long enough for a clock that ticks in milliseconds
BLOCK = {"png": 400, "npy_64": 24}
TRACKING = {True: "true", False: "false"}

Round = Callable[[], Used]


def garments() -> np.ndarray:
    """Golden inputs of the bundle with a little noise: uint8 (GARMENTS, 28, 28, 1)."""
    folder = MODELS / MODEL / VERSION
    golden = np.asarray(read_golden(folder, read_manifest(folder)).inputs, np.uint8)
    rng = np.random.default_rng(0)
    chosen = golden[rng.integers(0, len(golden), GARMENTS)]
    noisy = chosen + rng.normal(0, 3, chosen.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def bodies(workload: str) -> tuple[str, int, list[bytes]]:
    """Content type, inputs a request, and what a block sends."""
    pictures = garments()
    if workload == "png":
        return "image/png", 1, [_png(pictures[i % GARMENTS]) for i in range(BLOCK[workload])]
    buffer = io.BytesIO()
    np.save(buffer, pictures[:64])
    return "application/x-npy", 64, [buffer.getvalue()] * BLOCK[workload]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def block(process: int, send: Callable[[], None]) -> Round:
    """Wall and processor seconds of the process while `send` runs."""
    clock = ((~process) << 3) | 2  # clock_getcpuclockid(3): all threads of that process

    def once() -> Used:
        wall, processor = time.perf_counter(), time.clock_gettime(clock)
        send()
        return Used(time.perf_counter() - wall, time.clock_gettime(clock) - processor)

    return once


def posting(address: tuple[str, int], workload: str) -> Callable[[], None]:
    content_type, _, sent = bodies(workload)
    headers = {"Content-Type": content_type}
    connection = http.client.HTTPConnection(*address)

    def send() -> None:
        connection.close()
        for body in sent:
            connection.request("POST", f"/score?model={MODEL}", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200 or b'"error"' in content:
                raise SystemExit(f"status {answer.status}: {content[:500]!r}")

    return send


def scraping(address: tuple[str, int]) -> Callable[[], None]:
    def send() -> None:
        connection = http.client.HTTPConnection(*address)
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        connection.close()

    return send


def compare(on: Round, off: Round, seconds: float) -> list[tuple[Used, Used]]:
    """Pairs of blocks (on, off), the first of the two in turn."""
    for warm_up in (on, off):
        warm_up()
    pairs: list[tuple[Used, Used]] = []
    deadline = time.monotonic() + seconds
    while len(pairs) < FEWEST_PAIRS or time.monotonic() < deadline:
        if len(pairs) % 2:
            first, second = on(), off()
        else:
            second, first = off(), on()
        pairs.append((first, second))
    return pairs


def described(pairs: Sequence[tuple[Used, Used]], inputs: int, requests: int) -> dict[str, Any]:
    """Per request and input, and the ratios on / off with their 95 % intervals."""
    sides = {"on": [on for on, _ in pairs], "off": [off for _, off in pairs]}
    return {
        **{
            side: {
                "inputs_per_second": round(inputs / median(used.wall for used in some), 1),
                "processor_milliseconds_a_request": round(
                    median(used.processor for used in some) / requests * 1e3, 4
                ),
            }
            for side, some in sides.items()
        },
        "processor_ratio": _as_json(median_interval([a.processor / b.processor for a, b in pairs])),
        "throughput_ratio": _as_json(median_interval([b.wall / a.wall for a, b in pairs])),
        "pairs": len(pairs),
    }


def _as_json(ratio: Ratio) -> dict[str, float]:
    return {name: round(getattr(ratio, name), 4) for name in ("median", "low", "high")}


def measure(seconds: float) -> dict[str, Any]:
    servers = {
        on: start_service(MODELS, THREADS, {"OODSCORE_DRIFT_TRACKING": text})
        for on, text in TRACKING.items()
    }
    try:
        found: dict[str, Any] = {}
        for workload in BLOCK:
            rounds = {
                on: block(server.pid, posting(address, workload))
                for on, (server, address) in servers.items()
            }
            _, size, sent = bodies(workload)
            pairs = compare(rounds[True], rounds[False], seconds)
            found[workload] = described(pairs, size * len(sent), len(sent))
        scrapes = {
            on: block(server.pid, scraping(address)) for on, (server, address) in servers.items()
        }
        found["scrape"] = _scrapes(scrapes)
    finally:
        for server, _ in servers.values():
            server.terminate()
        for server, _ in servers.values():
            server.wait(timeout=60)
    return {
        "environment": environment(),
        "model": f"{MODEL}/{VERSION}",
        "threads": THREADS,
        "detectors": len(read_manifest(MODELS / MODEL / VERSION).forward_detectors()),
        **found,
    }


def _scrapes(rounds: dict[bool, Round]) -> dict[str, float]:
    """Processor milliseconds a scrape; reports are remade every two seconds."""
    seconds: dict[bool, list[float]] = {on: [] for on in rounds}
    for _ in range(5):
        time.sleep(2.1)
        for on, once in rounds.items():
            seconds[on].append(once().processor)
    return {
        f"{'on' if on else 'off'}_processor_milliseconds": round(median(values) * 1e3, 1)
        for on, values in seconds.items()
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_cost")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each kind of request")
    parser.add_argument("--quick", action="store_true", help="few blocks; writes nothing")
    arguments = parser.parse_args(given)
    record = measure(0 if arguments.quick else arguments.seconds)
    sys.stdout.write(json.dumps(record, indent=1) + "\n")
    if not arguments.quick:
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
