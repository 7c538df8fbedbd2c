"""A small convolutional autoencoder of images of any size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """(B, C, H, W) -> the same shape through `latent` numbers; two halvings of the side."""

    def __init__(self, channels: int, height: int, width: int, latent: int, maps: int) -> None:
        super().__init__()
        half = ((height + 1) // 2, (width + 1) // 2)
        quarter = ((half[0] + 1) // 2, (half[1] + 1) // 2)
        self.sizes = (half, (height, width))
        self.smallest = (2 * maps, *quarter)
        self.down1 = nn.Conv2d(channels, maps, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(maps, 2 * maps, 3, stride=2, padding=1)
        self.squeeze = nn.Linear(2 * maps * quarter[0] * quarter[1], latent)
        self.expand = nn.Linear(latent, 2 * maps * quarter[0] * quarter[1])
        self.up1 = nn.Conv2d(2 * maps, maps, 3, padding=1)
        self.up2 = nn.Conv2d(maps, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        code = self.squeeze(torch.relu(self.down2(torch.relu(self.down1(images)))).flatten(1))
        grown = torch.relu(self.expand(code)).unflatten(1, self.smallest)
        grown = torch.relu(self.up1(self._enlarged(grown, 0)))
        return self.up2(self._enlarged(grown, 1))

    def _enlarged(self, maps: Tensor, step: int) -> Tensor:
        """Twice the side, cut to the size it was made of."""
        height, width = self.sizes[step]
        return F.interpolate(maps, scale_factor=2.0, mode="nearest")[:, :, :height, :width]
