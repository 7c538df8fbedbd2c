"""A toy world for training tests: scikit-learn's 8 x 8 digits, enlarged to 28 x 28."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from service.bundle import ImageInput
from training.classifier import Classifier, ImageClassifier
from training.outputs import Outputs

SPEC = ImageInput(height=28, width=28, channels=1, mean=(0.3,), std=(0.35,))
CLASSES = 4


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """1,797 digits as uint8 (N, 28, 28, 1) and their labels."""
    small, labels = load_digits(return_X_y=True)
    images = np.clip(small.reshape(-1, 8, 8) * 15.9, 0, 255).astype(np.uint8)
    grown = np.kron(images, np.ones((1, 3, 3), np.uint8))
    return np.pad(grown, ((0, 0), (2, 2), (2, 2)))[..., None], labels.astype(np.int64)


def write_digits(folder: Path, train: int = 1300) -> None:
    """train.npz and test.npz in the `images`, `labels`, `class_names` form."""
    images, labels = digits()
    names = np.array([str(digit) for digit in range(10)])
    np.savez(folder / "train.npz", images=images[:train], labels=labels[:train], class_names=names)
    np.savez(folder / "test.npz", images=images[train:], labels=labels[train:], class_names=names)


class ToyNet(nn.Module):
    """One convolution, one hidden layer: every kind of tap, in milliseconds."""

    tap_names = ("conv", "hidden", "logits")
    penultimate = "hidden"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.hidden = nn.Linear(6, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Outputs:
        conv = torch.relu(self.conv(images))
        hidden = torch.relu(self.hidden(conv.amax(dim=(2, 3))))
        logits = self.head(hidden)
        return Outputs({"conv": conv, "hidden": hidden, "logits": logits}, logits, self.penultimate)


def toy_pixels(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four classes of stripes, uint8 (count, 12, 12, 1), and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    rows, columns = np.mgrid[:12, :12]
    patterns = np.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 6 < 3, rows < 6])
    images = patterns[labels] * 140.0 + 50 + rng.normal(0, 12, (count, 12, 12))
    pixels = np.clip(images, 0, 255).astype(np.uint8)[..., None]
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def noise_pixels(count: int, seed: int) -> Tensor:
    """Saturated salt and pepper: far from every stripe."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.choice([0, 255], (count, 12, 12, 1)).astype(np.uint8))


TOY_SPEC = ImageInput(height=12, width=12, channels=1, mean=(0.5,), std=(0.3,))


@cache
def toy_classifier() -> Classifier:
    """Trained on the stripes to full accuracy, in two seconds; evaluation mode."""
    torch.manual_seed(0)
    classifier = ImageClassifier(ToyNet(), TOY_SPEC)
    pixels, labels = toy_pixels(400, seed=1)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=0.02)
    for _ in range(150):
        loss = nn.functional.cross_entropy(classifier(pixels).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    classifier.heads["outliers"] = _outlier_head(classifier.eval(), pixels)
    return classifier.eval()


def toy_outliers(count: int, seed: int) -> Tensor:
    """Saturated and faint noise, half of each."""
    noise = noise_pixels(count, seed)
    return torch.cat([noise[: count // 2], 128 + (noise[count // 2 :] > 0).to(torch.uint8)])


def _outlier_head(classifier: Classifier, pixels: Tensor) -> nn.Module:
    """Tells stripes from noise by the frozen features."""
    head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    with torch.no_grad():
        of_id = classifier(pixels).features
        of_outliers = classifier(toy_outliers(200, seed=31)).features
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(400):
        loss = nn.functional.softplus(head(of_id)).mean()
        loss = loss + nn.functional.softplus(-head(of_outliers)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return head
