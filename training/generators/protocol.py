"""What every generator of images is."""

from typing import ClassVar

import torch
from torch import Tensor, nn

_SAMPLES = 256  # made at once


class ImageGenerator(nn.Module):
    """Trained batch by batch, then sampled with latents of any standard deviation.

    step(images, labels)  one training step on (B, C, H, W) in [0, 1], labels (B,) -> losses
    decode(z, labels)     (B, latent) -> images in [0, 1], evaluation mode

    `optimisers` are made once, in the constructor; all state is in `state_dict` and theirs.
    """

    reference: ClassVar[str]
    latent: int
    classes: int
    optimisers: dict[str, torch.optim.Optimizer]

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        raise NotImplementedError

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def sample(self, count: int, spread: float, seed: int) -> Tensor:
        """uint8 (count, H, W, C): z from N(0, spread^2), a *standard deviation* of `spread` (1 in
        training); classes uniform."""
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        device = next(self.parameters()).device
        parts = []
        for start in range(0, count, _SAMPLES):
            size = min(_SAMPLES, count - start)
            z = spread * torch.randn(size, self.latent, generator=generator)
            labels = torch.randint(0, self.classes, (size,), generator=generator)
            images = self.decode(z.to(device), labels.to(device)).clamp(0, 1)
            parts.append((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
        return torch.cat(parts)
