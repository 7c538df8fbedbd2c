"""Large images go through the network a few at a time, wherever a whole set is looked at."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.bundle import ImageInput
from training.active.network import Network
from training.batches import BATCH, batch_rows
from training.classifier import Classifier, ImageClassifier
from training.config import ObjectiveConfig, OptimiserConfig
from training.data import ImageSet
from training.measures.measured import Measured
from training.objectives import Batch
from training.objectives.cross_entropy import CrossEntropy
from training.optimise import Run, train
from training.outputs import Outputs

SIDE = 224
COUNT = 20
SPEC = ImageInput(height=SIDE, width=SIDE, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
TRAINED_AT_ONCE = 5


class Watched(nn.Module):
    """Remembers how many images came together."""

    tap_names = ("maps", "hidden", "logits")
    penultimate = "hidden"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 9, stride=16)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(2, 2)
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Outputs:
        self.seen.append(len(images))
        maps = torch.relu(self.conv(images))
        hidden = self.dropout(maps.mean(dim=(2, 3)))
        logits = self.head(hidden)
        return Outputs({"maps": maps, "hidden": hidden, "logits": logits}, logits, self.penultimate)


class Looks(CrossEntropy):
    """Keeps what it was shown before and after the training."""

    reads_outliers: ClassVar[bool] = True
    shown: list[Batch]

    def start(self, batch: Batch) -> None:
        self.shown = [batch]

    def finish(self, classifier: Classifier, seen: Iterable[Batch]) -> None:
        self.shown.extend(seen)


def photographs(name: str, seed: int) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return ImageSet(name, pixels, np.arange(COUNT) % 2, ("a", "b"), "made here")


@pytest.fixture
def watched() -> tuple[Watched, Classifier]:
    torch.manual_seed(0)
    network = Watched()
    return network, ImageClassifier(network, SPEC).eval()


def test_as_many_rows_as_their_pixels_allow() -> None:
    assert batch_rows((28, 28, 1)) == BATCH
    assert batch_rows((SIDE, SIDE, 3)) == 9
    assert batch_rows((28, 28, 1), 50) == 50
    assert batch_rows((5000, 5000, 3)) == 1


def test_before_and_after_the_training(watched: tuple[Watched, Classifier], tmp_path: Path) -> None:
    """A few at a time, and nothing is left out: the outputs are those of each image alone."""
    network, classifier = watched
    data, outliers = photographs("id", 1), photographs("ood", 2)
    recipe = OptimiserConfig(name="sgd", lr=1e-9, epochs=1, batch_size=TRAINED_AT_ONCE)
    objective = Looks()
    identity = Run("watched", {}, ObjectiveConfig(), recipe, 0)
    start = classifier.head.weight.detach().clone()
    train(classifier, data, objective, identity, tmp_path / "c.pt", outliers)
    before, *after = objective.shown
    assert max(network.seen) <= max(9, 2 * TRAINED_AT_ONCE)

    assert set(before.id_outputs.taps) == {"hidden"}, "no maps of all inputs at once"
    pixels = torch.from_numpy(np.asarray(data.batch(slice(None))))
    torch.testing.assert_close(classifier.head.weight, start, atol=1e-6, rtol=0)
    with torch.no_grad():
        of_id = torch.cat([classifier(row[None]).logits for row in pixels])
        of_outliers = torch.cat(
            [classifier(torch.from_numpy(row[None])).logits for row in outliers.inputs]
        )
    torch.testing.assert_close(before.id_outputs.logits, of_id, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.exposed.logits, of_outliers, atol=1e-5, rtol=1e-5)
    assert before.labels.tolist() == data.labels.tolist()
    torch.testing.assert_close(
        torch.cat([batch.id_outputs.logits for batch in after]), of_id, atol=1e-5, rtol=1e-5
    )
    assert torch.cat([batch.labels for batch in after]).tolist() == data.labels.tolist()


def test_votes_of_a_pool(watched: tuple[Watched, Classifier]) -> None:
    network, classifier = watched
    votes = Network(classifier, 2, 0).votes(photographs("pool", 3))
    assert len(votes.entropy) == COUNT
    assert max(network.seen) <= 9


def test_measures_of_a_study(watched: tuple[Watched, Classifier], tmp_path: Path) -> None:
    network, classifier = watched
    data = photographs("id", 4)
    measured = Measured(classifier, None, 100, tmp_path / "r.npy", first=True)  # pyright: ignore[reportArgumentType]
    features, labels = measured.features(data)
    assert features.shape == (COUNT, 2)
    assert labels.tolist() == data.labels.tolist()
    assert max(network.seen) <= 9
