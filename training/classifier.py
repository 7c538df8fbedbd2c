"""Backbone: normalised images -> Outputs.  Classifier: pixels -> Outputs."""

from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from service.bundle import ImageInput
from training.outputs import Outputs


class Backbone(Protocol):
    """A network whose layers can be tapped.

    `tap_names` are in network order; `penultimate` is the one the linear head reads.
    """

    tap_names: ClassVar[tuple[str, ...]]
    penultimate: ClassVar[str]

    def __call__(self, images: Tensor) -> Outputs:
        """(B, C, H, W), normalised -> Outputs."""
        ...


class Classifier(nn.Module):
    """uint8 pixels (B, H, W, C) -> Outputs; normalisation is part of the network."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, backbone: Backbone, spec: ImageInput) -> None:
        super().__init__()
        self.backbone = cast(nn.Module, backbone)
        self.tap_names = backbone.tap_names
        self.penultimate = backbone.penultimate
        self.spec = spec
        scale = torch.tensor(spec.std) * 255
        self.register_buffer("pixel_scale", (1 / scale).view(-1, 1, 1), persistent=False)
        shift = torch.tensor(spec.mean) / torch.tensor(spec.std)
        self.register_buffer("pixel_shift", shift.view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_scale.device

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32, (x / 255 - mean) / std."""
        return pixels.permute(0, 3, 1, 2).float() * self.pixel_scale - self.pixel_shift

    def forward(self, pixels: Tensor) -> Outputs:
        return self.backbone(self.normalise(pixels))

    def from_normalised(self, images: Tensor) -> Outputs:
        """(B, C, H, W) already normalised; noise probes enter here."""
        return self.backbone(images)
