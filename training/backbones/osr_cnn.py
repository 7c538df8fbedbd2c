"""The plain convolutional network of open-set papers, as in VMDLS's released code.

0.82 M weights for ten classes, 0.81 M of them before the head.

Recipe of VMDLS (MNIST): Adam lr 1e-4, 500 epochs (100 are enough), pixels normalised to -1..1.
Initialisation: PyTorch's own, as there.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones.sizes import check_side
from training.outputs import Outputs


class OsrCnn(nn.Module):
    """Five convolutions of 100 maps, pooled after the second, fourth and fifth; 500 features.

    `side`: 28 for the MNIST family, 32 for CIFAR.
    """

    tap_names: ClassVar[tuple[str, ...]] = ("conv2", "pool1", "conv3", "fc")
    penultimate: ClassVar[str] = "fc"

    def __init__(self, channels: int, classes: int, *, side: int = 28) -> None:
        super().__init__()
        if side < 8:
            raise ValueError(f"osr_cnn: side {side}; three poolings need at least 8")
        self.side = side
        self.conv1 = nn.Conv2d(channels, 100, 3, padding=1)
        self.conv2 = nn.Conv2d(100, 100, 3, padding=1)
        self.conv3 = nn.Conv2d(100, 100, 3, padding=1)
        self.conv4 = nn.Conv2d(100, 100, 3, padding=1)
        self.conv5 = nn.Conv2d(100, 100, 3, padding=1)
        self.fc = nn.Linear(100 * (side // 8) ** 2, 500)
        self.classify = nn.Linear(500, classes)

    @property
    def head(self) -> nn.Linear:
        return self.classify

    def forward(self, images: Tensor) -> Outputs:
        """(B, channels, 28, 28), normalised -> `conv2` (B,100,28,28) before ReLU, `pool1`
        (B,100,14,14), `conv3` (B,100,14,14) after ReLU, `fc` (B,500) without ReLU."""
        check_side("osr_cnn", images, self.side)
        conv2 = self.conv2(torch.relu(self.conv1(images)))
        pool1 = F.max_pool2d(torch.relu(conv2), 2)
        conv3 = torch.relu(self.conv3(pool1))
        pool2 = F.max_pool2d(torch.relu(self.conv4(conv3)), 2)
        pool3 = F.max_pool2d(torch.relu(self.conv5(pool2)), 2)
        fc = self.fc(pool3.flatten(1))
        taps = {"conv2": conv2, "pool1": pool1, "conv3": conv3, "fc": fc}
        return Outputs(taps, self.classify(fc), self.penultimate)
