"""Latent vector and class -> image, for images of any size: shared by all image generators."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassNorm(nn.Module):
    """Batch normalisation with a gain and a bias of each class (BigGAN, arXiv:1809.11096)."""

    def __init__(self, maps: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(maps, affine=False)
        self.gain = nn.Embedding(classes, maps)
        self.bias = nn.Embedding(classes, maps)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, values: Tensor, labels: Tensor) -> Tensor:
        gain, bias = self.gain(labels)[:, :, None, None], self.bias(labels)[:, :, None, None]
        return self.norm(values) * gain + bias


class Decoder(nn.Module):
    """z (B, latent), labels (B,) -> (B, C, H, W), unbounded; two doublings of the side."""

    def __init__(
        self, latent: int, classes: int, channels: int, height: int, width: int, maps: int
    ) -> None:
        super().__init__()
        half = ((height + 1) // 2, (width + 1) // 2)
        quarter = ((half[0] + 1) // 2, (half[1] + 1) // 2)
        self.sizes = (half, (height, width))
        self.smallest = (2 * maps, *quarter)
        self.embed = nn.Embedding(classes, latent)
        self.expand = nn.Linear(2 * latent, 2 * maps * quarter[0] * quarter[1])
        self.norms = nn.ModuleList([ClassNorm(2 * maps, classes), ClassNorm(maps, classes)])
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(2 * maps, maps, 3, padding=1), nn.Conv2d(maps, channels, 3, padding=1)]
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        given = torch.cat([z, self.embed(labels)], dim=1)
        values = self.expand(given).unflatten(1, self.smallest)
        layers = zip(self.norms, self.convolutions, self.sizes, strict=True)
        for norm, convolution, (height, width) in layers:
            values = torch.relu(norm(values, labels))
            values = F.interpolate(values, scale_factor=2.0, mode="nearest")
            values = convolution(values[:, :, :height, :width])
        return values
