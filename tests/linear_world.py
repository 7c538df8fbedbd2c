"""Features, labels and a linear head made by hand: what a detector reads, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from toy import TOY_SPEC

from training.classifier import Classifier, ImageClassifier
from training.detectors import Detector
from training.detectors.outlier_head import OUTLIER_HEAD
from training.outputs import Outputs

Array = NDArray[np.float64]


class _Headed(nn.Module):
    tap_names = ("features",)
    penultimate = "features"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.weight.data, self.head.bias.data = weight, bias

    def forward(self, images: Tensor) -> Outputs:
        raise AssertionError("only the head is read")


@dataclass(frozen=True)
class World:
    """weight (K, D), bias (K,); features (N, D) >= 0 with labels (N,) that the head mostly gets.

    All values are exact in float32, so that a float64 reading starts from the same numbers.
    """

    weight: Array
    bias: Array
    features: Array
    labels: NDArray[np.int64]
    outliers: Array = field(default_factory=lambda: far(seed=9))  # to be trained on (M, D)

    @property
    def logits(self) -> Array:
        return self.logits_of(self.features)

    def logits_of(self, features: Array) -> Array:
        return features @ self.weight.T + self.bias

    @property
    def correct(self) -> NDArray[np.bool_]:
        return self.logits.argmax(1) == self.labels

    @property
    def classifier(self) -> Classifier:
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        classifier = ImageClassifier(_Headed(weight.float(), bias.float()), TOY_SPEC)
        classifier.heads[OUTLIER_HEAD] = nn.Linear(weight.shape[1], 1)
        return classifier.eval()

    def outputs(self, features: Array) -> Outputs:
        """Features (n, D) -> float32 Outputs with the head's logits."""
        tensor = torch.from_numpy(features).float()
        logits = torch.from_numpy(self.logits_of(features)).float()
        return Outputs({"features": tensor}, logits, "features")

    def scaled(self, size: float) -> "World":
        """Features and logits `size` times as large."""
        return replace(
            self,
            bias=(self.bias * size).astype(np.float32).astype(np.float64),
            features=(self.features * size).astype(np.float32).astype(np.float64),
        )

    def without_predictions(self, classes: Sequence[int]) -> "World":
        """Only the rows that are not predicted as one of `classes`."""
        kept = ~np.isin(self.logits.argmax(1), classes)
        return replace(self, features=self.features[kept], labels=self.labels[kept])


def world(seed: int, count: int = 600, classes: int = 6, dim: int = 20) -> World:
    """Rectified noisy class patterns; the head is the same for every seed, about 90 % right."""
    patterns = np.random.default_rng(99).normal(0, 1.0, (classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = np.maximum(patterns[labels] + rng.normal(0, 0.7, (count, dim)), 0)
    bias = np.linspace(-0.5, 0.5, classes)
    exact = [values.astype(np.float32).astype(np.float64) for values in (patterns, bias, features)]
    return World(exact[0], exact[1], exact[2], labels)


def far(seed: int, count: int = 80, dim: int = 20) -> Array:
    """Rectified features (count, D) without a pattern, some twice as large as any of ID."""
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(0, 1, (count, dim)) * rng.uniform(0.1, 4, (count, 1)), 0)
    return features.astype(np.float32).astype(np.float64)


def fit(detector: Detector, train: World, held_out: World, batch: int = 64) -> Detector:
    """The protocol's one pass, in batches."""
    detector.prepare(train.classifier)
    if detector.reads_outliers:
        detector.observe_outliers(train.outputs(train.outliers))
    for source, observe in ((train, detector.observe), (held_out, detector.observe_held_out)):
        for start in range(0, len(source.labels), batch):
            rows = slice(start, start + batch)
            labels = torch.from_numpy(source.labels[rows])
            observe(source.outputs(source.features[rows]), labels)
    detector.finish()
    return detector


def score(detector: Detector, outputs: Outputs) -> Array:
    """The one score of a detector, float64 (n,)."""
    (values,) = detector(outputs).values()
    assert values.dtype == torch.float32
    return values.double().numpy()
