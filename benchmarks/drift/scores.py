"""Scores and predicted labels of test-ID, of OOD sets and of corrupted test-ID, by one bundle."""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle import FORWARD, BundleRef
from service.graphs import SessionOptions
from service.loading import LoadedBundle, open_bundle
from training.data.corruptions import corrupt

Array = NDArray[np.float64]
BUNDLE = BundleRef("fashion-mnist", 2, Path("models/fashion-mnist/2"))
FASHION = Path("/usr/share/datasets/fashion-mnist")
OOD_FILES = {"mnist": "mnist/test", "notmnist": "notmnist/test", "omniglot": "omniglot/small28"}
DETECTORS = ("combined", "energy", "knn")
CORRUPTIONS = ("gaussian_noise", "defocus_blur", "contrast")
SEVERITIES = (1, 2, 3, 4, 5)
CORRUPTED = 2_000  # images of test-ID of each kind and severity


@dataclass(frozen=True)
class Answers:
    """`scores`: detector -> (n,); `labels`: predicted (n,)."""

    scores: dict[str, Array]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: NDArray[np.int64]) -> "Answers":
        scores = {detector: values[places] for detector, values in self.scores.items()}
        return Answers(scores, self.labels[places])


@dataclass(frozen=True)
class World:
    """`classes`: true ones of test-ID (n,); `corrupted` by (kind, severity)."""

    bundle: LoadedBundle
    test_id: Answers
    classes: NDArray[np.int64]
    ood: dict[str, Answers]
    corrupted: dict[tuple[str, int], Answers]

    def calibration(self, detector: str) -> Array:
        return self.bundle.calibration[detector].astype(np.float64)


def read_world() -> World:
    bundle = open_bundle(BUNDLE, SessionOptions("cpu", 1))
    images = test_images()
    ood: dict[str, Answers] = {}
    for name, file in OOD_FILES.items():
        pixels = np.load(Path(os.environ["OODSCORE_DATA"]) / f"{file}.npz")["images"][:5000]
        ood[name] = _answers(bundle, pixels.reshape(-1, 28, 28, 1))
    return World(
        bundle=bundle,
        test_id=_answers(bundle, images),
        classes=_idx("t10k-labels-idx1-ubyte.gz", 8).astype(np.int64),
        ood=ood,
        corrupted={
            (kind, severity): _answers(bundle, corrupt(images[:CORRUPTED], kind, severity))
            for kind in CORRUPTIONS
            for severity in SEVERITIES
        },
    )


def test_images() -> NDArray[np.uint8]:
    """(10000, 28, 28, 1)."""
    return _idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)


def _idx(file: str, header: int) -> NDArray[np.uint8]:
    with gzip.open(FASHION / file) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


def _answers(bundle: LoadedBundle, images: NDArray[np.uint8]) -> Answers:
    names = ["logits", *(f"score/{detector}" for detector in DETECTORS)]
    parts = [
        bundle.session(FORWARD).run(images[start : start + 64], names)
        for start in range(0, len(images), 64)
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return Answers(
        {d: found[f"score/{d}"].astype(np.float64) for d in DETECTORS},
        found["logits"].argmax(axis=1),
    )
