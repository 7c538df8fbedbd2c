"""Residual networks for 32x32 images: 3x3 stem, no max-pool.

Source: He et al. 2015, arXiv:1512.03385, in the form of the OOD literature (Lee et al. 2018,
arXiv:1807.03888; FSSD, arXiv:2012.12682).  For ten classes `resnet_18` has 11.2 M weights,
`resnet_34` 21.3 M.  FSSD's file builds its ResNet-18 of pre-activation blocks; both are plain here.

Recipe of FSSD (resnet_34): SGD, momentum 0.9, lr 0.1, weight decay 5e-4, batch 128, 350 epochs,
lr / 10 at 150 and 250, flips and crops padded by 4.  Initialisation: PyTorch's own, as there.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.outputs import Outputs


class ResNet(nn.Module):
    """`blocks`: how many two-convolution blocks each of the four layers has."""

    tap_names: ClassVar[tuple[str, ...]] = ("stem", "layer1", "layer2", "layer3", "layer4")
    penultimate: ClassVar[str] = "layer4"

    def __init__(self, channels: int, classes: int, *, blocks: Sequence[int]) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"resnet: blocks {list(blocks)}; four positive numbers are needed")
        self.conv = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        self.layer1 = _layer(64, 64, blocks[0], 1)
        self.layer2 = _layer(64, 128, blocks[1], 2)
        self.layer3 = _layer(128, 256, blocks[2], 2)
        self.layer4 = _layer(256, 512, blocks[3], 2)
        self.fc = nn.Linear(512, classes)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def forward(self, images: Tensor) -> Outputs:
        """(B, channels, H, W), normalised -> taps of 64, 64, 128, 256, 512 channels, all after
        ReLU, at H, H, H/2, H/4, H/8."""
        stem = torch.relu(self.norm(self.conv(images)))
        layer1 = self.layer1(stem)
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        layer4 = self.layer4(layer3)
        logits = self.fc(layer4.mean(dim=(2, 3)))
        taps = {"stem": stem, "layer1": layer1, "layer2": layer2, "layer3": layer3}
        return Outputs(taps | {"layer4": layer4}, logits, self.penultimate)


class _Block(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))); 1x1 shortcut where the shape changes."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outgoing)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outgoing)
        self.shortcut = (
            nn.Identity()
            if incoming == outgoing and stride == 1
            else nn.Sequential(
                nn.Conv2d(incoming, outgoing, 1, stride, bias=False), nn.BatchNorm2d(outgoing)
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(maps)))))
        return torch.relu(self.shortcut(maps) + inner)


def _layer(incoming: int, outgoing: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(incoming, outgoing, stride)
    return nn.Sequential(first, *(_Block(outgoing, outgoing, 1) for _ in range(blocks - 1)))
