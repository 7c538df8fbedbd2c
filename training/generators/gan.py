"""A small class-conditional GAN of BigGAN's kind.  Source: Brock et al. 2018, arXiv:1809.11096.

Of that recipe: hinge loss, a projection discriminator with spectral normalisation,
class-conditional batch normalisation, two discriminator steps to one of the generator, Adam with
beta 0 and 0.999, an average of the generator's weights for sampling.  Not of it: residual blocks,
attention, size.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.generators.decoder import Decoder
from training.generators.protocol import ImageGenerator

_DISCRIMINATOR_STEPS = 2
_AVERAGE = 0.99


class _Discriminator(nn.Module):
    """Images (B, C, H, W), labels (B,) -> how real (B,): a score plus a projection on the class
    (Miyato & Koyama 2018, arXiv:1802.05637)."""

    def __init__(self, channels: int, classes: int, maps: int) -> None:
        super().__init__()
        widths = ((channels, maps), (maps, 2 * maps), (2 * maps, 4 * maps))
        self.convolutions = nn.ModuleList(
            spectral_norm(nn.Conv2d(given, made, 3, stride=2, padding=1)) for given, made in widths
        )
        self.score = spectral_norm(nn.Linear(4 * maps, 1))
        self.classes = spectral_norm(nn.Embedding(classes, 4 * maps))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        values = images * 2 - 1
        for convolution in self.convolutions:
            values = F.leaky_relu(convolution(values), 0.1)
        pooled = values.mean(dim=(2, 3))
        return self.score(pooled)[:, 0] + (self.classes(labels) * pooled).sum(1)


class ConditionalGan(ImageGenerator):
    reference = "arXiv:1809.11096"

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        classes: int,
        latent: int = 64,
        maps: int = 32,
        lr: float = 2e-4,
    ) -> None:
        super().__init__()
        self.latent, self.classes = latent, classes
        self.generator = Decoder(latent, classes, channels, height, width, maps)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.discriminator = _Discriminator(channels, classes, maps)
        self.optimisers = {
            name: torch.optim.Adam(part.parameters(), lr=lr, betas=(0.0, 0.999))
            for name, part in (
                ("generator", self.generator),
                ("discriminator", self.discriminator),
            )
        }

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        self.train()
        loss = torch.zeros((), device=images.device)
        for _ in range(_DISCRIMINATOR_STEPS):
            made, classes = self._drawn(len(images), images.device)
            real = self.discriminator(images, labels)
            fake = self.discriminator(made.detach(), classes)
            loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            self._descend("discriminator", loss)
        made, classes = self._drawn(len(images), images.device)
        cost = -self.discriminator(made, classes).mean()
        self._descend("generator", cost)
        self._follow()
        return {"discriminator": loss.item(), "generator": cost.item()}

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.sigmoid(self.average(z, labels))

    def _drawn(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        z = torch.randn(count, self.latent, device=device)
        labels = torch.randint(0, self.classes, (count,), device=device)
        return torch.sigmoid(self.generator(z, labels)), labels

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()

    @torch.no_grad()
    def _follow(self) -> None:
        """The moving average of the weights; running statistics are taken over."""
        average = self.average.state_dict()
        for name, value in self.generator.state_dict().items():
            known = average[name]
            floating = known.is_floating_point() and "running" not in name
            known.copy_(known.lerp(value, 1 - _AVERAGE) if floating else value)
