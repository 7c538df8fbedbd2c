"""A world of images with two pixels, for the pictures of docs/scores.md.

Every possible input is a point of the plane, 0..255 by 0..255, so a picture can show what a score
says of all of them.  Three classes: two blobs and an arc; a small network with dropout.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from service.bundle import ImageInput
from training.classifier import Classifier, ImageClassifier
from training.data import ImageSet
from training.detectors import DETECTORS, Detector
from training.detectors.outlier_head import OUTLIER_HEAD
from training.fitting import fit_detectors
from training.graph_detectors import GRAPH_DETECTORS, FitContext
from training.outputs import Outputs
from training.scorer import SCORE_PREFIX, Scorer
from training.side_scorer import SideScorer

SPEC = ImageInput(height=1, width=2, channels=1, mean=(0.5,), std=(0.25,))
CLASSES = ("left", "right", "arc")
STEP = 2  # between two points of the grid
_WIDTH = 32
_CHUNK = 2048
# Detectors that a picture of the plane needs other options for.
_OPTIONS: dict[str, dict[str, object]] = {
    "fssd": {"noise_count": 500},
    "knn": {"k": 10},
    "mc_dropout": {"passes": 16},
    "vmdls": {"epochs": 20},
}
_BUILT_ON = ("mahalanobis", "fssd", "vmdls_b")


class Net(nn.Module):
    """Two hidden layers; `second` is penultimate."""

    tap_names: ClassVar[tuple[str, ...]] = ("first", "second", "logits")
    penultimate: ClassVar[str] = "second"

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, _WIDTH)
        self.second = nn.Linear(_WIDTH, _WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.last = nn.Linear(_WIDTH, len(CLASSES))

    @property
    def head(self) -> nn.Linear:
        return self.last

    def forward(self, images: Tensor) -> Outputs:
        first = torch.relu(self.first(images.flatten(1)))
        second = self.dropout(torch.relu(self.second(first)))
        logits = self.last(second)
        return Outputs({"first": first, "second": second, "logits": logits}, logits, "second")


@dataclass(frozen=True)
class ScoreWorld:
    classifier: Classifier
    members: tuple[Classifier, ...]
    train: ImageSet
    held_out: ImageSet
    outliers: ImageSet


def points(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Of every class alike: images (N, 1, 2, 1) and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    angle = rng.uniform(0.15 * np.pi, 0.85 * np.pi, count)
    arc = np.stack([128 + 85 * np.cos(angle), 118 + 85 * np.sin(angle)], axis=1)
    places = np.stack([np.tile([75, 85], (count, 1)), np.tile([165, 75], (count, 1)), arc])
    spread = np.array([[13, 13], [18, 8], [7, 7]])[labels]
    plane = places[labels, np.arange(count)] + spread * rng.normal(size=(count, 2))
    return _images(plane), labels.astype(np.int64)


def _images(plane: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8).reshape(-1, 1, 2, 1)


def grid() -> NDArray[np.uint8]:
    """Every second input there is, row by row from the bottom."""
    axis = np.arange(0, 256, STEP)
    return _images(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float64))


def make_world() -> ScoreWorld:
    """Trained and split, the same at every call."""
    sets = []
    for name, count, seed in (("train", 1500, 1), ("held_out", 600, 2)):
        images, labels = points(count, seed)
        sets.append(ImageSet(name, images, labels, CLASSES, "made here"))
    rng = np.random.default_rng(3)
    cloud = rng.normal([215, 190], [14, 22], (300, 2))
    outliers = ImageSet("outliers", _images(cloud), np.full(300, -1), (), "made here")
    networks = [_trained(sets[0], seed) for seed in range(4)]
    networks[0].heads[OUTLIER_HEAD] = _outlier_head(networks[0], sets[0], outliers)
    train, held_out = sets
    return ScoreWorld(networks[0], tuple(networks[1:]), train, held_out, outliers)


def _trained(train: ImageSet, seed: int) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = ImageClassifier(Net(), SPEC)
        pixels, labels = torch.from_numpy(train.inputs), torch.from_numpy(train.labels)
        optimiser = torch.optim.Adam(classifier.parameters(), lr=0.01, weight_decay=1e-4)
        for _ in range(300):
            loss = F.cross_entropy(classifier(pixels).logits, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return classifier.eval()


def _outlier_head(classifier: Classifier, train: ImageSet, outliers: ImageSet) -> nn.Module:
    """Tells the cloud of outliers from ID by the features."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 1))
        with torch.no_grad():
            known, strange = (
                classifier(torch.from_numpy(each.inputs)).features for each in (train, outliers)
            )
        optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
        for _ in range(300):
            loss = F.softplus(head(known)).mean() + F.softplus(-head(strange)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return head


@torch.no_grad()
def scored(world: ScoreWorld, name: str, inputs: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The score of that name in the registry of every input (N,): of `gda` its only one, of a
    detector of several layers that of the penultimate."""
    scorer = _scorer(world, name)
    parts = [scorer(torch.from_numpy(part)) for part in np.split(inputs, _cuts(len(inputs)))]
    found = [key for key in parts[0] if key.startswith(SCORE_PREFIX)]
    key = SCORE_PREFIX + name if SCORE_PREFIX + name in found else found[0]
    return np.concatenate([part[key].double().numpy() for part in parts])


def _cuts(count: int) -> list[int]:
    return list(range(_CHUNK, count, _CHUNK))


def _scorer(world: ScoreWorld, name: str) -> nn.Module:
    sets = (world.train, world.held_out, world.outliers)
    if name in DETECTORS:
        detector = DETECTORS[name](**_OPTIONS.get(name, {}))
        fit_detectors(world.classifier, [detector], *sets)
        return Scorer(world.classifier, [detector]).eval()
    below: list[Detector] = [DETECTORS[each](**_OPTIONS.get(each, {})) for each in _BUILT_ON]
    fit_detectors(world.classifier, below, *sets)
    side = GRAPH_DETECTORS[name](**_OPTIONS.get(name, {}))
    held_out = torch.from_numpy(world.held_out.inputs)
    with torch.enable_grad():
        side.fit(FitContext(world.classifier, below, held_out, world.members, world.train))
    return SideScorer(world.classifier, side).eval()
