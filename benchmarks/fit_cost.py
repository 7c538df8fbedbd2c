"""What fitting the detectors costs on top of one plain forward pass: time and memory.

    OODSCORE_DATA=FOLDER python -m benchmarks.fit_cost

The networks of the shipped image bundles and the 50,000 images they were trained on, with all
detectors that one pass over ID data fits; what those of `oodscore-train fit` by default take of it
follows, since each is timed.  Some of their work does not grow with the images: with fewer of
them (`--images`) the ratio for 50,000 is computed from both parts.
In one run: each batch goes through the plain network, then through the pass that fits, and
what counts is the processor time of this process, whatever else the machine does.  Memory is that
of a process of its own, above what it held with the network loaded, so the images count, too.
Writes results/fit_cost.json; `--quick` prints one round of fewer images instead.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from benchmarks.environment import environment
from benchmarks.peak_memory import peak_bytes
from service.bundle import read_manifest
from training.classifier import Classifier
from training.config import RunConfig
from training.data import ImageSet
from training.data.loaders import loader_of
from training.data.roles import load_first
from training.detectors import DETECTORS, HEAD_OF, READS_OUTLIERS
from training.fit.choice import DEFAULTS
from training.fitting import fit_detectors
from training.restore import load_scorers

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "fit_cost.json"
BUNDLES = {"lenet": "fashion-mnist", "wrn_40_2": "cifar10"}
IMAGES = 50_000
QUICK_IMAGES = 5_000
HELD_OUT = 1_000
# They read nothing but ID data.
DETECTORS_OF_ONE_PASS = tuple(sorted(set(DETECTORS) - set(HEAD_OF) - READS_OUTLIERS))


@dataclass(frozen=True)
class Round:
    """Processor seconds: of the plain pass over `images`, of the pass that fits with dev-ID, and
    of each detector in that, `streamed` for train-ID and `fixed` for the rest."""

    images: int
    held_out: int
    forward: float
    fit: float
    streamed: Mapping[str, float]
    fixed: Mapping[str, float]

    def ratio(self, images: int, chosen: Sequence[str] | None = None) -> float:
        """To the plain pass over so many `images`, of all or of the `chosen` detectors."""
        names = self.fixed.keys() if chosen is None else chosen
        dev = self.forward * self.held_out / self.images
        plain_in_fit = self.fit - dev - sum(self.streamed.values()) - sum(self.fixed.values())
        streamed = plain_in_fit + sum(self.streamed[name] for name in names)
        fixed = dev + sum(self.fixed[name] for name in names)
        return streamed / self.forward + fixed / self.forward * self.images / images


@dataclass(frozen=True)
class Alternating(ImageSet):
    """Each batch goes through `first` twice, the second time measured, before it is given."""

    first: Callable[[NDArray[Any]], object] = repr
    unmeasured: list[float] = field(default_factory=list)  # it finds nothing in the caches
    seconds: list[float] = field(default_factory=list)

    def batch(self, where: slice | NDArray[np.int64]) -> NDArray[Any]:
        for spent in (self.unmeasured, self.seconds):
            started = time.process_time()
            self.first(super().batch(where))
            spent.append(time.process_time() - started)
        return super().batch(where)


def network(name: str) -> tuple[Classifier, RunConfig]:
    """The classifier of the newest bundle."""
    versions = (ROOT / "models" / BUNDLES[name]).iterdir()
    newest = max(versions, key=lambda folder: int(folder.name))
    config = RunConfig.model_validate(read_manifest(newest).provenance.config)
    return load_scorers(newest).classifier.eval(), config


def images(config: RunConfig, count: int) -> tuple[ImageSet, ImageSet]:
    """The first `count` training images, and 1,000 of them once more for dev-ID."""
    loader: Any = loader_of(config.form)
    found: Any = load_first("train", config.data.train, loader)
    if len(found) < count:
        raise SystemExit(f"{found.origin} has {len(found)} images, not {count}")
    if len(found) > count:
        found = found.take(np.arange(count), found.name)
    return found, found.take(np.arange(min(HELD_OUT, count)), "dev_id")


def time_round(
    classifier: Classifier, data: ImageSet, held_out: ImageSet, names: Sequence[str]
) -> Round:
    """Fit these detectors once."""

    @torch.no_grad()
    def plain(pixels: NDArray[Any]) -> None:
        classifier(torch.from_numpy(pixels))

    detectors = [DETECTORS[name]() for name in names]
    streamed, fixed = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for name, detector in zip(names, detectors, strict=True):
        for method in ("prepare", "observe", "observe_held_out", "finish"):
            spent = streamed if method == "observe" else fixed
            setattr(detector, method, _clocked(getattr(detector, method), spent, name))
    values = {each.name: getattr(data, each.name) for each in fields(ImageSet)}
    alternating = Alternating(**values, first=plain)
    started = time.process_time()
    fit_detectors(classifier, detectors, alternating, held_out)
    forward = sum(alternating.seconds)
    fit = time.process_time() - started - sum(alternating.unmeasured) - forward
    return Round(len(data), len(held_out), forward, fit, streamed, fixed)


def _clocked(method: Callable[..., Any], spent: dict[str, float], name: str) -> Any:
    def clocked(*given: Any) -> Any:
        started = time.process_time()
        try:
            return method(*given)
        finally:
            spent[name] += time.process_time() - started

    return clocked


def measure_memory(name: str, count: int) -> float:
    """Megabytes above the loaded network at the peak of one fit in this process; call it once."""
    classifier, config = network(name)
    before = psutil.Process().memory_info().rss
    data, held_out = images(config, count)
    detectors = [DETECTORS[each]() for each in DETECTORS_OF_ONE_PASS]
    fit_detectors(classifier, detectors, data, held_out)
    return (peak_bytes() - before) / 1e6


def memory_of(name: str, count: int) -> float:
    """`measure_memory` in a process of its own."""
    words = ("--memory", name, "--images", str(count))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fit_cost", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def measure(name: str, count: int, rounds: int) -> dict[str, Any]:
    """One network's record."""
    classifier, config = network(name)
    data, held_out = images(config, count)
    warm = replace(data, inputs=data.inputs[:512], labels=data.labels[:512])
    time_round(classifier, warm, held_out, DEFAULTS)
    runs = [time_round(classifier, data, held_out, DETECTORS_OF_ONE_PASS) for _ in range(rounds)]
    return {
        "environment": environment(),
        "images": count,
        "held_out": len(held_out),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "forward_seconds": [round(run.forward, 2) for run in runs],
        "fit_seconds": [round(run.fit, 2) for run in runs],
        "ratio": round(median(run.ratio(count) for run in runs), 3),
        "ratio_at_50000": round(median(run.ratio(IMAGES) for run in runs), 3),
        "default_ratio_at_50000": round(median(run.ratio(IMAGES, DEFAULTS) for run in runs), 3),
        "beyond_network_mb": round(memory_of(name, count)),
        "detectors": {
            detector: {
                "an_image_ms": round(
                    median(1000 * run.streamed[detector] / count for run in runs), 4
                ),
                "fixed_seconds": round(median(run.fixed[detector] for run in runs), 3),
            }
            for detector in DETECTORS_OF_ONE_PASS
        },
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_cost")
    parser.add_argument("--networks", default=",".join(BUNDLES))
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round; writes nothing")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    asked = parser.parse_args(given)
    if asked.memory:
        sys.stdout.write(f"{measure_memory(asked.memory, asked.images)}\n")
        return
    count, rounds = (QUICK_IMAGES, 1) if asked.quick else (asked.images, asked.rounds)
    for name in asked.networks.split(","):
        record = measure(name, count, rounds)
        sys.stdout.write(f"{name}: {json.dumps(record, indent=1)}\n")
        if not asked.quick:
            before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
            kept = json.dumps(before | {name: record}, indent=1, sort_keys=True)
            RESULT.write_text(f"{kept}\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
