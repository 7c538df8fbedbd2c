"""What does serving a text cost beyond its graph?  python -m benchmarks.text_throughput

Questions of CLINC150's length, one a request and 64 a request, by POST /score of a service
process and by its forward graph alone: the same session and threads on token ids made before, 64
padded to the longest of them.  The two are measured in turn; each pair gives a ratio.  The
service's processor time is its process's own; its wall time holds the client's, one at a time.
Prints the ratios and writes results/text_throughput.json.
"""

import argparse
import gzip
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.environment import environment
from service.bundle import FORWARD, TextEncoder, pad_tokens
from service.decision import make_plan
from service.graphs import SessionOptions
from service.loading import LoadedBundle
from service.repository import open_repository
from training.evaluation.timing import FEWEST_PAIRS, median_interval

RESULT = Path(__file__).parent / "results" / "text_throughput.json"
BATCHES = (1, 64)
THREADS = 1
TEXTS = 256  # a round
SECONDS = 60.0
READY_SECONDS = 120


@dataclass(frozen=True)
class Used:
    """Seconds of one round."""

    wall: float
    processor: float


def read_questions(path: Path, count: int) -> list[str]:
    """`count` texts drawn from a .jsonl.gz file, always the same."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return [texts[index] for index in np.random.default_rng(0).permutation(len(texts))[:count]]


def chunks(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def graph_round(bundle: LoadedBundle, texts: Sequence[str], batch: int) -> Callable[[], Used]:
    """All texts through the forward graph, every score that /score gives by default."""
    encoder = bundle.encoder
    assert isinstance(encoder, TextEncoder)  # noqa: S101  (the model reads texts)
    session = bundle.session(FORWARD)
    outputs = make_plan(bundle.manifest, bundle.calibration).outputs_of(FORWARD)
    ids = [
        pad_tokens([encoder.encode(text) for text in chunk], encoder.spec.pad_id)
        for chunk in chunks(texts, batch)
    ]

    def once() -> Used:
        wall, processor = time.perf_counter(), time.process_time()
        for tokens in ids:
            session.run(tokens, outputs)
        return Used(time.perf_counter() - wall, time.process_time() - processor)

    return once


def service_round(
    address: tuple[str, int], process: int, model: str, texts: Sequence[str], batch: int
) -> Callable[[], Used]:
    """All texts through POST /score on one connection."""
    bodies = [
        json.dumps({"model": model, "inputs": [{"text": text} for text in chunk]}).encode()
        for chunk in chunks(texts, batch)
    ]
    clock = ((~process) << 3) | 2  # clock_getcpuclockid(3): all threads of that process
    connection = http.client.HTTPConnection(*address)

    def once() -> Used:
        wall, processor = time.perf_counter(), time.clock_gettime(clock)
        connection.close()  # the service closes one that idles through a round of the graph
        for body in bodies:
            connection.request("POST", "/score", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200 or b'"error"' in content:
                raise SystemExit(f"status {answer.status}: {content[:500]!r}")
        return Used(time.perf_counter() - wall, time.clock_gettime(clock) - processor)

    return once


def compare(
    alone: Callable[[], Used], served: Callable[[], Used], texts: int, seconds: float
) -> dict[str, Any]:
    """Pairs of rounds, the first of the two in turn, until `seconds` have passed."""
    for call in (alone, served):
        call()
    pairs: list[tuple[Used, Used]] = []
    deadline = time.monotonic() + seconds
    while len(pairs) < FEWEST_PAIRS or time.monotonic() < deadline:
        if len(pairs) % 2:
            second, first = served(), alone()
        else:
            first, second = alone(), served()
        pairs.append((first, second))
    ratios = {
        "processor_ratio": median_interval([s.processor / a.processor for a, s in pairs]),
        "wall_ratio": median_interval([s.wall / a.wall for a, s in pairs]),
    }
    return {
        "graph": _per_text([first for first, _ in pairs], texts),
        "service": _per_text([second for _, second in pairs], texts),
        **{
            name: {"median": round(r.median, 3), "low": round(r.low, 3), "high": round(r.high, 3)}
            for name, r in ratios.items()
        },
        "pairs": len(pairs),
    }


def _per_text(rounds: Sequence[Used], texts: int) -> dict[str, float]:
    return {
        "texts_per_second": round(texts / median(used.wall for used in rounds), 1),
        "processor_milliseconds_a_text": round(
            median(used.processor for used in rounds) / texts * 1e3, 3
        ),
    }


def start_service(models: Path, threads: int) -> tuple[subprocess.Popen[bytes], tuple[str, int]]:
    """A process that is ready, and where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", int(free.getsockname()[1]))
    settings = {
        "OODSCORE_MODELS_DIR": str(models),
        "OODSCORE_PORT": str(address[1]),
        "OODSCORE_THREADS": str(threads),
        "OODSCORE_PROVIDER": "cpu",
        "OODSCORE_LOG_LEVEL": "warning",
        "OODSCORE_SHUTDOWN_DELAY_SECONDS": "0",
    }
    command = [sys.executable, "-m", "service", "serve"]
    server = subprocess.Popen(command, env=os.environ | settings)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        connection = http.client.HTTPConnection(*address, timeout=10)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return server, address
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)
    server.kill()
    raise SystemExit(f"the service was not ready within {READY_SECONDS} s; see above")


def measure(
    bundle: LoadedBundle, models: Path, texts: Sequence[str], seconds: float
) -> dict[str, Any]:
    """The record of one run."""
    encoder = bundle.encoder
    assert isinstance(encoder, TextEncoder)  # noqa: S101
    server, address = start_service(models, THREADS)
    try:
        batches = {
            str(batch): compare(
                graph_round(bundle, texts, batch),
                service_round(address, server.pid, bundle.name, texts, batch),
                len(texts),
                seconds,
            )
            for batch in BATCHES
        }
    finally:
        server.terminate()
        server.wait(timeout=60)
    return {
        "environment": environment(),
        "model": f"{bundle.name}/{bundle.version}",
        "threads": THREADS,
        "texts": len(texts),
        "tokens_a_text": float(np.median([len(encoder.encode(text)) for text in texts])),
        "scores_a_text": len(make_plan(bundle.manifest, bundle.calibration).detectors),
        "texts_a_request": batches,
    }


def show(record: dict[str, Any]) -> None:
    write = sys.stdout.write
    write(
        f"{record['model']}, {record['threads']} thread, {record['texts']} texts of "
        f"{record['tokens_a_text']:.0f} tokens (median), {record['scores_a_text']} scores each\n"
    )
    for batch, found in record["texts_a_request"].items():
        write(f"{batch} a request:\n")
        for what in ("graph", "service"):
            used = found[what]
            write(
                f"  {what:8} {used['texts_per_second']:8.1f} texts/s  "
                f"{used['processor_milliseconds_a_text']:8.3f} ms of processor a text\n"
            )
        for name in ("processor_ratio", "wall_ratio"):
            ratio = found[name]
            write(f"  {name} {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]\n")


def main(given: Sequence[str] | None = None) -> None:
    data = os.environ.get("OODSCORE_DATA")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text_throughput")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", help="the default text model if left out")
    parser.add_argument(
        "--texts",
        type=Path,
        default=Path(data) / "clinc150" / "test.jsonl.gz" if data else None,
        help="gzipped JSON lines with a field text; clinc150's test below OODSCORE_DATA",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each size of request")
    parser.add_argument("--quick", action="store_true", help="few rounds; writes nothing")
    arguments = parser.parse_args(given)
    if arguments.texts is None:
        parser.error("OODSCORE_DATA is not set; name a file of texts by --texts")
    repository = open_repository(arguments.models, SessionOptions("cpu", THREADS))
    bundle = repository.get(arguments.model or repository.default("text"))
    texts = read_questions(arguments.texts, TEXTS)
    record = measure(bundle, arguments.models, texts, 0 if arguments.quick else arguments.seconds)
    show(record)
    if not arguments.quick:
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
