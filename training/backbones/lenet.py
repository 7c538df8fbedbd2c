"""LeNet of the FSSD experiments (Huang et al. 2020, arXiv:2012.12682): 28x28, 1.2 M weights.

Recipe: Adadelta lr 1, x0.7 an epoch, 14 epochs, batch 64, no augmentation.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from training.backbones.sizes import check_side
from training.outputs import Outputs

_SIDE = 28


class LeNet(nn.Module):
    """`width`: maps of the first convolution, half of those of the second; `pool`: how many
    pixels a side one pooled value stands for.  The defaults are the published ones."""

    tap_names: ClassVar[tuple[str, ...]] = ("conv1", "conv2", "fc1", "logits")
    penultimate: ClassVar[str] = "fc1"

    def __init__(self, channels: int, classes: int, *, width: int = 32, pool: int = 2) -> None:
        super().__init__()
        if width < 1 or not 1 <= pool <= _SIDE - 4:
            raise ValueError(
                f"lenet: width {width}, pool {pool}; width must be positive and pool 1 to "
                f"{_SIDE - 4}"
            )
        self.conv1 = nn.Conv2d(channels, width, 3)
        self.conv2 = nn.Conv2d(width, 2 * width, 3)
        self.pool = nn.MaxPool2d(pool)
        self.dropout_maps = nn.Dropout2d(0.25)
        self.fc1 = nn.Linear(2 * width * ((_SIDE - 4) // pool) ** 2, 128)
        self.dropout_features = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)

    @property
    def head(self) -> nn.Linear:
        return self.fc2

    def forward(self, images: Tensor) -> Outputs:
        """(B, channels, 28, 28), normalised -> taps (B,w,26,26), (B,2w,24,24), (B,128), (B,K)."""
        check_side("lenet", images, _SIDE)
        conv1 = torch.relu(self.conv1(images))
        conv2 = torch.relu(self.conv2(conv1))
        maps = self.dropout_maps(self.pool(conv2))
        fc1 = torch.relu(self.fc1(maps.flatten(1)))
        logits = self.fc2(self.dropout_features(fc1))
        taps = {"conv1": conv1, "conv2": conv2, "fc1": fc1, "logits": logits}
        return Outputs(taps, logits, self.penultimate)
