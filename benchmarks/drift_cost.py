"""What does watching for drift cost?  python -m benchmarks.drift_cost

The application on models/fashion-mnist in this process, with and without its drift tracker in turn:
test-ID (Debian's dataset-fashion-mnist), one a request (PNG) and 64 a request (npy), blocks of both
ways right after one another, all images in turn: the same few again and again would be a drift, and
alarms cost more (`alarms` tells how many there were).  Each pair of blocks gives a ratio of
processor time (what other programs take left out) and of wall time.
One process for both: each would otherwise tune its
batches for itself, which moves more than is measured.  Requests go straight into the application,
without a socket, so the tracker's share is larger than a client sees; the network is the smallest
that ships.  And the tracker by itself, without anything around it.  Prints the ratios and writes
results/drift_cost.json.
"""

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.drift.scores import test_images
from benchmarks.environment import environment
from benchmarks.text_throughput import Used
from service.app import create_app
from service.decision import Verdict
from service.runtime import Runtime
from service.settings import Settings
from training.evaluation.timing import FEWEST_PAIRS, Ratio, median_interval

RESULT = Path(__file__).parent / "results" / "drift_cost.json"
MODELS = Path("models")
MODEL = "fashion-mnist"
SECONDS = 60.0
TRIALS = 5
# bodies of one block, so many that the tracker takes answers in once
BLOCK = {"png": 1024, "npy_64": 16}
# both ways take turns within a block: what the machine gives changes within seconds
PIECES = {"png": 16, "npy_64": 1}
_TYPES = {"png": "image/png", "npy_64": "application/x-npy"}


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def npy_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


def blocks(workload: str) -> list[list[bytes]]:
    """What each block sends, until every test image was sent that fills one."""
    pictures, count = test_images(), BLOCK[workload]
    if workload == "png":
        sent = [png_of(picture) for picture in pictures]
    else:
        sent = [npy_of(pictures[start : start + 64]) for start in range(0, len(pictures), 64)]
    return [sent[start : start + count] for start in range(0, len(sent) - count + 1, count)]


async def post(app: Any, body: bytes, content_type: str) -> None:
    """One request.  SystemExit where it is not answered 200."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/score",
        "raw_path": b"/score",
        "query_string": f"model={MODEL}".encode(),
        "root_path": "",
        "headers": [(b"content-type", content_type.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    status, sent = 0, False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:  # the client stays
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    if status != 200:
        raise SystemExit(f"status {status}")


async def compare(app: Any, workload: str, seconds: float) -> list[tuple[Used, Used]]:
    """Each block both ways (on, off), the first of the two in turn."""
    runtime: Runtime = app.state.runtime
    tracker, turns = runtime.drift, cycle(blocks(workload))

    async def piece(sent: Sequence[bytes], *, on: bool) -> Used:
        runtime.drift = tracker if on else None
        wall, processor = time.perf_counter(), time.process_time()
        for body in sent:
            await post(app, body, _TYPES[workload])
        return Used(time.perf_counter() - wall, time.process_time() - processor)

    async def block() -> tuple[Used, Used]:
        used: dict[bool, list[Used]] = {True: [], False: []}
        sent = next(turns)
        size = len(sent) // PIECES[workload]
        for start in range(0, len(sent), size):
            nonlocal on_first
            on_first = not on_first
            for on in (on_first, not on_first):
                used[on].append(await piece(sent[start : start + size], on=on))
        return _sum(used[True]), _sum(used[False])

    on_first = False
    await block()  # warms up
    pairs: list[tuple[Used, Used]] = []
    deadline = time.monotonic() + seconds
    while len(pairs) < FEWEST_PAIRS or time.monotonic() < deadline:
        pairs.append(await block())
    runtime.drift = tracker
    return pairs


def _sum(pieces: Sequence[Used]) -> Used:
    return Used(sum(used.wall for used in pieces), sum(used.processor for used in pieces))


async def tracker_alone(app: Any) -> float:
    """Processor microseconds an input, of taking in answers of 64: median of TRIALS times all."""
    runtime: Runtime = app.state.runtime
    tracker = runtime.drift
    if tracker is None:
        raise SystemExit("the tracker is off")
    kept: list[tuple[str, str, list[Verdict]]] = []
    with patch.object(tracker, "add", lambda n, v, some: kept.append((n, v, list(some)))):
        for block in blocks("npy_64"):
            for body in block:
                await post(app, body, _TYPES["npy_64"])
    inputs = sum(len(some) for _, _, some in kept)
    times: list[float] = []
    for _ in range(TRIALS):
        began = time.process_time()
        for name, version, some in kept:
            tracker.add(name, version, some)
            tracker.catch_up()
        times.append((time.process_time() - began) / inputs * 1e6)
    return round(median(times), 2)


def described(pairs: Sequence[tuple[Used, Used]], workload: str) -> dict[str, Any]:
    """Per request, and the ratios on / off with their 95 % intervals."""
    sides = {"on": [on for on, _ in pairs], "off": [off for _, off in pairs]}
    requests = BLOCK[workload]
    return {
        **{
            side: {
                "requests_per_second": round(requests / median(used.wall for used in some), 1),
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


async def measure(seconds: float) -> dict[str, Any]:
    settings = Settings(
        models_dir=MODELS, default_image_model=MODEL, provider="cpu", log_level="error"
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        await app.state.loading
        bundle = app.state.runtime.require_repository().get(MODEL)
        alone = await tracker_alone(app)
        found = {name: described(await compare(app, name, seconds), name) for name in BLOCK}
        reports = app.state.runtime.drift.reports()
        alarms = sum(one.shiryaev_roberts.alarms for each in reports for one in each.detectors)
    return {
        "environment": environment(),
        "model": f"{bundle.name}/{bundle.version}",
        "detectors": len(bundle.manifest.forward_detectors()),
        "tracker_microseconds_an_input": alone,
        "alarms": alarms,
        **found,
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_cost")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each kind of request")
    parser.add_argument("--quick", action="store_true", help="few blocks; writes nothing")
    arguments = parser.parse_args(given)
    record = asyncio.run(measure(0 if arguments.quick else arguments.seconds))
    sys.stdout.write(json.dumps(record, indent=1) + "\n")
    if not arguments.quick:
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
