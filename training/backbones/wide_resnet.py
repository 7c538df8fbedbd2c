"""Wide residual networks for 32x32 images.  Source: Zagoruyko & Komodakis 2016, arXiv:1605.07146.

Recipe of the OOD literature (WRN-40-2, 2.2 M weights): SGD with Nesterov momentum 0.9, lr 0.1,
weight decay 5e-4, batch 128, 100 epochs, cosine per step, flips and crops padded by 4.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from training.outputs import Outputs


class WideResNet(nn.Module):
    """`depth` = 6 n + 4 for n pre-activation blocks in each of three groups."""

    tap_names: ClassVar[tuple[str, ...]] = ("stem", "group1", "group2", "group3")
    penultimate: ClassVar[str] = "group3"

    def __init__(
        self, channels: int, classes: int, *, depth: int, width: int, dropout: float = 0.3
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"wide_resnet: depth {depth} is not 6 n + 4, as 16, 28 or 40")
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.group1 = _group(widths[0], widths[1], blocks, 1, dropout)
        self.group2 = _group(widths[1], widths[2], blocks, 2, dropout)
        self.group3 = _group(widths[2], widths[3], blocks, 2, dropout)
        self.norm = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def forward(self, images: Tensor) -> Outputs:
        """(B, channels, H, W), normalised -> taps at H, H, H/2, H/4; group3 after norm and ReLU."""
        stem = self.stem(images)
        group1 = self.group1(stem)
        group2 = self.group2(group1)
        group3 = torch.relu(self.norm(self.group3(group2)))
        logits = self.fc(group3.mean(dim=(2, 3)))
        taps = {"stem": stem, "group1": group1, "group2": group2, "group3": group3}
        return Outputs(taps, logits, self.penultimate)


class _Block(nn.Module):
    """x + conv(drop(relu(norm(conv(relu(norm(x))))))); a 1x1 shortcut where the width changes."""

    def __init__(self, incoming: int, outgoing: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(incoming)
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outgoing)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(incoming, outgoing, 1, stride, bias=False) if incoming != outgoing else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        active = torch.relu(self.norm1(maps))
        passed = maps if self.shortcut is None else self.shortcut(active)
        inner = self.dropout(torch.relu(self.norm2(self.conv1(active))))
        return passed + self.conv2(inner)


def _group(incoming: int, outgoing: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = _Block(incoming, outgoing, stride, dropout)
    rest = [_Block(outgoing, outgoing, 1, dropout) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
