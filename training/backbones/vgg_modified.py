"""The modified VGG of open-set papers, as in VMDLS's released code: 32x32, 8.6 M weights.

Recipe of VMDLS: Adam lr 1e-3, 500 epochs, lr / 10 every 100, flips and crops padded by 4.
Initialisation: PyTorch's own, as there; no dropout.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones.sizes import check_side
from training.outputs import Outputs

_SIDE = 32


class ModifiedVgg(nn.Module):
    """Convolutions 64, 128, pool, 256 x 2, pool, 256 x 4, pool, then two layers of 1024."""

    tap_names: ClassVar[tuple[str, ...]] = ("stage1", "stage2", "stage3", "feature")
    penultimate: ClassVar[str] = "feature"

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stage1 = _stage(channels, 64, 128)
        self.stage2 = _stage(128, 256, 256)
        self.stage3 = _stage(256, 256, 256, 256, 256)
        self.fc1 = nn.Linear(256 * (_SIDE // 8) ** 2, 1024)
        self.fc2 = nn.Linear(1024, 1024)
        self.fc3 = nn.Linear(1024, classes)

    @property
    def head(self) -> nn.Linear:
        return self.fc3

    def forward(self, images: Tensor) -> Outputs:
        """(B, channels, 32, 32), normalised -> taps (B,128,32,32), (B,256,16,16), (B,256,8,8)
        after norm but before ReLU; `feature` (B,1024) after ReLU."""
        check_side("vgg_modified", images, _SIDE)
        stage1 = self.stage1(images)
        stage2 = self.stage2(_pool(stage1))
        stage3 = self.stage3(_pool(stage2))
        hidden = torch.relu(self.fc1(_pool(stage3).flatten(1)))
        feature = torch.relu(self.fc2(hidden))
        logits = self.fc3(feature)
        taps = {"stage1": stage1, "stage2": stage2, "stage3": stage3, "feature": feature}
        return Outputs(taps, logits, self.penultimate)


def _pool(maps: Tensor) -> Tensor:
    return F.max_pool2d(torch.relu(maps), 2)


def _stage(incoming: int, *widths: int) -> nn.Sequential:
    """Convolution and norm for each width, with ReLU between them but not at the end."""
    parts: list[nn.Module] = []
    for width in widths:
        if parts:
            parts.append(nn.ReLU())
        parts += [nn.Conv2d(incoming, width, 3, padding=1), nn.BatchNorm2d(width)]
        incoming = width
    return nn.Sequential(*parts)
