"""What the int8 variant costs in accuracy and AUROC, and what it gains in time."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle import FORWARD, FORWARD_INT8, VariantPrice
from training.evaluation.metrics import auroc
from training.evaluation.tables import Scores
from training.export.onnx_network import open_network
from training.fitting import Network

BATCHES = (1, 8, 32)
_ROUNDS = 15
_ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Judged:
    """One graph on the run's test sets; accuracy on test-ID, 0..1."""

    scores: Scores
    accuracy: float


def price_of(
    fp32: Judged,
    int8: Judged,
    ood_sets: Iterable[str],
    speed_ratio: Mapping[str, float],
    processor: str,
) -> VariantPrice:
    """Accuracy and AUROC of both on the same images; detectors are those of `int8`.

    `speed_ratio`: as `measure_speed` gives it, measured on that processor.
    """
    import onnxruntime  # after the telemetry switch of training.export.onnx_network

    return VariantPrice(
        accuracy=int8.accuracy,
        accuracy_fp32=fp32.accuracy,
        auroc={
            name: {
                detector: (_auroc(fp32.scores, name, detector), _auroc(int8.scores, name, detector))
                for detector in int8.scores.detectors
            }
            for name in ood_sets
        },
        speed_ratio=dict(speed_ratio),
        measured_on=f"{processor}, 1 thread, onnxruntime {onnxruntime.__version__}",
    )


def measure_speed(folder: Path, images: NDArray[np.uint8]) -> dict[str, float]:
    """Batch size -> seconds of forward.onnx / seconds of the variant, on one thread.

    The two take turns; the median over the rounds' ratios forgets what else the machine did.
    """
    fp32, int8 = (open_network(folder / file, threads=1) for file in (FORWARD, FORWARD_INT8))
    ratios: dict[str, float] = {}
    for size in BATCHES:
        batch = np.resize(images, (size, *images.shape[1:]))
        once = min(_seconds(network, batch, 1) for network in (fp32, int8, fp32, int8))
        repeats = max(1, round(_ROUND_SECONDS / once))
        rounds = [
            _seconds(fp32, batch, repeats) / _seconds(int8, batch, repeats) for _ in range(_ROUNDS)
        ]
        ratios[str(size)] = round(float(np.median(rounds)), 2)
    return ratios


def _seconds(network: Network, batch: NDArray[np.uint8], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        network(batch)
    return time.perf_counter() - started


def _auroc(scores: Scores, ood_set: str, detector: str) -> float:
    return auroc(scores.id_test[detector], scores.ood[ood_set][detector])
