"""What is asked: single images, single texts, arrays of 64 images; made from a bundle's own
golden inputs, and the bare session on the same rows."""

import io
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from service.bundle import FORWARD, find_bundles
from service.cpus import usable_cpus
from service.graphs import SessionOptions
from service.loading import LoadedBundle, open_bundle
from service.onnx_session import ModelInput, OnnxSession

ROWS = 64


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    model: str
    kind: str  # png, npy or text
    concurrencies: tuple[int, ...]

    @property
    def rows(self) -> int:
        return ROWS if self.kind == "npy" else 1


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("png-small", "PNG images, small network", "fashion-mnist", "png", (1, 8, 32, 128)),
        Workload("png", "PNG images, WRN-40-2", "cifar10", "png", (1, 8, 32, 128)),
        Workload("npy", "npy arrays of 64 images, small network", "fashion-mnist", "npy", (1, 8)),
        Workload("text", "texts", "clinc150", "text", (1, 8, 32, 128)),
    )
}


def open_model(models: Path, name: str) -> LoadedBundle:
    """The highest version, opened and tuned as the service does it."""
    ref = max(ref for ref in find_bundles(models) if ref.name == name)
    return open_bundle(ref, SessionOptions("cpu", None))


def bodies(bundle: LoadedBundle, kind: str) -> tuple[list[bytes], str]:
    """Request bodies, and their content type."""
    with np.load(bundle.ref.path / "golden.npz") as golden:
        inputs: Any = golden["inputs"]
    if kind == "text":
        return [str(text).encode() for text in inputs.tolist()], "text/plain"
    if kind == "npy":
        buffer = io.BytesIO()
        np.save(buffer, inputs[np.arange(ROWS) % len(inputs)])
        return [buffer.getvalue()], "application/x-npy"
    encoded: list[bytes] = []
    for pixels in inputs:
        buffer = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded, "image/png"


def _ready(bundle: LoadedBundle, kind: str) -> tuple[OnnxSession, list[ModelInput], list[str]]:
    """The session, what a request's inputs are to it, and the names of all outputs."""
    with np.load(bundle.ref.path / "golden.npz") as golden:
        inputs: Any = golden["inputs"]
    given: list[ModelInput]
    if kind == "text":
        assert bundle.encoder is not None  # noqa: S101
        given = [bundle.encoder.encode_all([text]) for text in inputs.tolist()]
    elif kind == "npy":
        given = [inputs[np.arange(ROWS) % len(inputs)]]
    else:
        given = [row[None] for row in inputs]
    return bundle.session(FORWARD), given, list(bundle.plan().outputs_of(FORWARD))


def alone(bundle: LoadedBundle, kind: str, runs: int = 100) -> float:
    """Milliseconds of one inference of one request, the median of `runs`, nothing beside it."""
    session, given, outputs = _ready(bundle, kind)
    took: list[float] = []
    for run in range(runs):
        started = time.perf_counter()
        session.run(given[run % len(given)], outputs)
        took.append((time.perf_counter() - started) * 1e3)
    return median(took)


def paced(bundle: LoadedBundle, kind: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds from the moment a request was due to its end, of the bare session that is given
    `rate` requests a second, one loop a free processor: what the machine itself makes callers wait.
    """
    session, given, outputs = _ready(bundle, kind)
    numbers = itertools.count()  # of requests; a loop takes the next one
    began = time.perf_counter()

    def loop(_: int) -> list[float]:
        took: list[float] = []
        while (number := next(numbers)) < rate * seconds:
            due = began + number / rate
            if (pause := due - time.perf_counter()) > 0:
                time.sleep(pause)
            session.run(given[number % len(given)], outputs)
            took.append((time.perf_counter() - due) * 1e3)
        return took

    loops = _loops(session)
    with ThreadPoolExecutor(loops) as threads:
        return [each for took in threads.map(loop, range(loops)) for each in took]


def _loops(session: OnnxSession) -> int:
    """So many at once leave no processor idle."""
    return max(1, usable_cpus() // session.threads)


def bare(bundle: LoadedBundle, kind: str, seconds: float) -> dict[str, float]:
    """The session alone on inputs that are ready, one loop a free processor: what is left when
    everything but inference is taken away."""
    session, given, outputs = _ready(bundle, kind)
    loops = _loops(session)

    def loop(_: int) -> int:
        runs, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            session.run(given[runs % len(given)], outputs)
            runs += 1
        return runs

    loop_seconds = seconds
    with ThreadPoolExecutor(loops) as threads:
        started, cpu = time.perf_counter(), time.process_time()
        runs = sum(threads.map(loop, range(loops)))
        cpu, loop_seconds = time.process_time() - cpu, time.perf_counter() - started
    return {
        "cpu_milliseconds": cpu / runs * 1e3,
        "requests_per_second": runs / loop_seconds,
        "milliseconds": loops * loop_seconds / runs * 1e3,
    }
