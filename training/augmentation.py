"""Random changes to training images, uint8 (B, H, W, C) -> the same; the global seed decides."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PADDING = 4


def flip(pixels: Tensor) -> Tensor:
    """Mirror every other image, left to right."""
    mirrored = torch.rand(len(pixels)) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(2), pixels)


def crop(pixels: Tensor) -> Tensor:
    """Pad each side by 4 black pixels and cut a window of the old size out, anywhere."""
    count, height, width, _ = pixels.shape
    padded = F.pad(pixels, (0, 0, _PADDING, _PADDING, _PADDING, _PADDING))
    corners = torch.randint(0, 2 * _PADDING + 1, (2, count, 1))
    rows = corners[0] + torch.arange(height)
    columns = corners[1] + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {"crop": crop, "flip": flip}
