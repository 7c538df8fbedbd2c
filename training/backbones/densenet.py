"""DenseNet-BC for 32x32 images.  Source: Huang et al. 2017, arXiv:1608.06993.

`densenet_bc_100`: depth 100, 12 maps a layer, 0.77 M weights for ten classes: the network of
ODIN (arXiv:1706.02690) and Mahalanobis (arXiv:1807.03888), whose taps these are.

Recipe of the paper: SGD with Nesterov momentum 0.9, lr 0.1, weight decay 1e-4, batch 64, 300
epochs, lr / 10 after a half and three quarters, flips and crops padded by 4; dropout 0.2 only
without augmentation.  Initialisation: normal by fan-out, head bias 0.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.outputs import Outputs


class DenseNet(nn.Module):
    """`depth` = 6 n + 4 for n bottleneck layers in each of three blocks; halving transitions."""

    tap_names: ClassVar[tuple[str, ...]] = ("stem", "trans1", "trans2", "final")
    penultimate: ClassVar[str] = "final"

    def __init__(
        self, channels: int, classes: int, *, depth: int, growth: int = 12, dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 6)
        if rest or layers < 1:
            raise ValueError(f"densenet: depth {depth} is not 6 n + 4, as 40 or 100")
        added = layers * growth
        stem = 2 * growth
        middle = (stem + added) // 2
        last = (middle + added) // 2
        self.stem = nn.Conv2d(channels, stem, 3, padding=1, bias=False)
        self.block1 = _block(stem, layers, growth, dropout)
        self.trans1 = _Transition(stem + added, middle, dropout)
        self.block2 = _block(middle, layers, growth, dropout)
        self.trans2 = _Transition(middle + added, last, dropout)
        self.block3 = _block(last, layers, growth, dropout)
        self.norm = nn.BatchNorm2d(last + added)
        self.fc = nn.Linear(last + added, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def forward(self, images: Tensor) -> Outputs:
        """(B, channels, H, W), normalised -> taps of 24, 108, 150, 342 channels (depth 100) at
        H, H/2, H/4, H/4; `final` after norm and ReLU."""
        stem = self.stem(images)
        trans1 = self.trans1(self.block1(stem))
        trans2 = self.trans2(self.block2(trans1))
        final = torch.relu(self.norm(self.block3(trans2)))
        logits = self.fc(final.mean(dim=(2, 3)))
        taps = {"stem": stem, "trans1": trans1, "trans2": trans2, "final": final}
        return Outputs(taps, logits, self.penultimate)


class _Bottleneck(nn.Module):
    """x, and beside it `growth` new maps: norm, ReLU, 1x1 to 4 x growth, norm, ReLU, 3x3."""

    def __init__(self, incoming: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(incoming)
        self.conv1 = nn.Conv2d(incoming, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.dropout(self.conv1(torch.relu(self.norm1(maps))))
        new = self.dropout(self.conv2(torch.relu(self.norm2(inner))))
        return torch.cat([maps, new], dim=1)


class _Transition(nn.Module):
    """norm, ReLU, 1x1 convolution, average over 2x2."""

    def __init__(self, incoming: int, outgoing: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(incoming)
        self.conv = nn.Conv2d(incoming, outgoing, 1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(self.dropout(self.conv(torch.relu(self.norm(maps)))), 2)


def _block(incoming: int, layers: int, growth: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(_Bottleneck(incoming + index * growth, growth, dropout) for index in range(layers))
    )
