"""A conditional variational autoencoder.  Source: Sohn et al. 2015; Kingma & Welling,
arXiv:1312.6114."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.generators.decoder import Decoder
from training.generators.protocol import ImageGenerator


class ConditionalVae(ImageGenerator):
    """Two convolutions up to N(mu, sigma^2) of the latent, the shared decoder back; pixels are
    read as probabilities."""

    reference = "arXiv:1312.6114"

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        classes: int,
        latent: int = 32,
        maps: int = 32,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.latent, self.classes = latent, classes
        self.encode = nn.Sequential(
            nn.Conv2d(channels, maps, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(maps, 2 * maps, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            size = self.encode(torch.zeros(1, channels, height, width)).shape[1]
        self.embed = nn.Embedding(classes, size)
        self.moments = nn.Linear(size, 2 * latent)
        self.decoder = Decoder(latent, classes, channels, height, width, maps)
        self.optimisers = {"vae": torch.optim.Adam(self.parameters(), lr=lr)}

    def step(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        self.train()
        mean, log_variance = self.moments(self.encode(images) + self.embed(labels)).chunk(2, dim=1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        logits = self.decoder(z, labels)
        drawn = F.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum() / 2 / len(images)
        self.optimisers["vae"].zero_grad(set_to_none=True)
        (drawn + divergence).backward()
        self.optimisers["vae"].step()
        return {"reconstruction": drawn.item(), "divergence": divergence.item()}

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.sigmoid(self.decoder(z, labels))
