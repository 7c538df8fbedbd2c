"""What do the scores cost on top of the plain classifier?  python -m benchmarks.detection_overhead

Three ways to the same logits, in turn within every round: the classifier's graph alone, the
bundle's graph with every score inside, and torch (eager) with the same detectors.  One thread,
batches 1, 8 and 32.  LeNet takes some tens of microseconds, so its overhead is given in
microseconds an input beside the ratio.  Writes results/detection_overhead.json.
"""

import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.environment import environment
from service.bundle import FORWARD, find_bundles, read_manifest
from training.classifier import Classifier
from training.export import export_graph, open_network
from training.fitting import torch_network
from training.restore import load_scorer

BATCHES = (1, 8, 32)
ROUNDS = 60
RESULT = Path(__file__).parent / "results" / "detection_overhead.json"


class PlainClassifier(nn.Module):
    """The network alone: pixels -> logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(pixels).logits}


def microseconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats * 1e6


def measure(folder: Path) -> list[dict[str, object]]:
    """One row a batch size; every time is microseconds an input, the median over the rounds."""
    manifest = read_manifest(folder)
    scorer = load_scorer(folder)
    spec = manifest.input
    with tempfile.TemporaryDirectory() as temporary:
        plain_path = Path(temporary) / "plain.onnx"
        export_graph(PlainClassifier(scorer.classifier), spec, plain_path)
        plain = open_network(plain_path, threads=1)
    networks = {
        "plain": plain,
        "with_scores": open_network(folder / FORWARD, threads=1),
        "torch_eager": torch_network(scorer),
    }
    rows: list[dict[str, object]] = []
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        shape = (batch, spec.height, spec.width, spec.channels)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        times: dict[str, list[float]] = {name: [] for name in networks}
        repeats = max(2, 64 // batch)
        for _ in range(ROUNDS):
            for name, network in networks.items():
                call = functools.partial(network, pixels)
                times[name].append(microseconds(call, repeats) / batch)
        median = {name: float(np.median(values)) for name, values in times.items()}
        ratios = np.array(times["with_scores"]) / np.array(times["plain"])
        rows.append(
            {
                "bundle": f"{manifest.name}/{manifest.version}",
                "detectors": len(manifest.detectors),
                "batch": batch,
                "threads": 1,
                **{f"{name}_us": round(value, 2) for name, value in median.items()},
                "overhead_us": round(median["with_scores"] - median["plain"], 2),
                "ratio_to_plain": round(float(np.median(ratios)), 3),
                "ratio_quartiles": [round(float(q), 3) for q in np.quantile(ratios, [0.25, 0.75])],
                "torch_eager_to_with_scores": round(
                    median["torch_eager"] / median["with_scores"], 2
                ),
            }
        )
    return rows


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for ref in find_bundles(Path("models")) for row in measure(ref.path)]
    table = Table(title="Detection overhead, microseconds an input, one thread")
    columns = ("bundle", "batch", "plain_us", "with_scores_us", "overhead_us", "ratio_to_plain")
    for column in (*columns, "torch_eager_us"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(str(row[column]) for column in (*columns, "torch_eager_us")))
    Console(width=110).print(table)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    Console().print(str(RESULT))


if __name__ == "__main__":
    main()
