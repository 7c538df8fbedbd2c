"""Backbone: what its first layer computes with -> Outputs.  Classifier: raw inputs -> Outputs.

Inputs are discrete, pixels or token ids.  Everything that works alike on both goes through the
*continuous* form of an input, which has gradients: the normalised image, or a text's word
embeddings.
"""

from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from service.bundle import ImageInput, TextInput
from training.outputs import Outputs
from training.text_backbone import TextBackbone
from training.token_noise import TokenNoise

InputSpec = ImageInput | TextInput


class Backbone(Protocol):
    """A network of images whose layers can be tapped; that of texts is in training.text_backbone.

    `tap_names` are in network order; `penultimate` is the one the linear head reads.
    """

    tap_names: ClassVar[tuple[str, ...]]
    penultimate: ClassVar[str]

    @property
    def head(self) -> nn.Linear:
        """In evaluation mode logits = head(Outputs.features)."""
        ...

    def __call__(self, images: Tensor) -> Outputs:
        """(B, C, H, W), normalised -> Outputs."""
        ...


class Classifier(nn.Module):
    """Raw inputs, first dimension N -> Outputs."""

    backbone: nn.Module

    def __init__(self, backbone: Backbone | TextBackbone) -> None:
        super().__init__()
        self.backbone = cast(nn.Module, backbone)
        self.tap_names = backbone.tap_names
        self.penultimate = backbone.penultimate
        # What an objective trains beside the network, by name; detectors copy what they read.
        self.heads = nn.ModuleDict()

    @property
    def generator(self) -> str | None:
        """The tap that a latent penultimate layer is linear in; None without such a layer."""
        return getattr(self.backbone, "generator", None)

    @property
    def head(self) -> nn.Linear:
        """The linear layer from penultimate features to logits."""
        return cast(Backbone, self.backbone).head

    @property
    def spec(self) -> InputSpec:
        """What the inputs are."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, inputs: Tensor) -> Outputs:
        return self.from_continuous(self.continuous(inputs), inputs)

    def from_continuous(self, point: Tensor, inputs: Tensor) -> Outputs:
        """The continuous form of `inputs`, possibly moved -> Outputs."""
        return self.backbone(*self.arguments(point, inputs))

    def continuous(self, inputs: Tensor) -> Tensor:
        """What the backbone computes with, float32, first dimension N."""
        raise NotImplementedError

    def arguments(self, point: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
        """What the backbone is called with; each has first dimension N."""
        raise NotImplementedError

    def step(self, epsilon: Tensor) -> Tensor:
        """The length of a step in each value of a continuous form; broadcasts over it."""
        raise NotImplementedError

    def present(self, inputs: Tensor) -> Tensor:
        """1 where the continuous form belongs to the input, 0 on padding; broadcasts over it."""
        raise NotImplementedError

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Inputs without any structure, on the CPU."""
        raise NotImplementedError

    def example(self) -> Tensor:
        """One input, for whoever must know what the outputs are."""
        return example_inputs(self.spec, 1).to(self.device)


class ImageClassifier(Classifier):
    """uint8 pixels (B, H, W, C) -> Outputs; normalisation is part of the network."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, backbone: Backbone, spec: ImageInput) -> None:
        super().__init__(backbone)
        self._spec = spec
        scale = torch.tensor(spec.std) * 255
        self.register_buffer("pixel_scale", (1 / scale).view(-1, 1, 1), persistent=False)
        shift = torch.tensor(spec.mean) / torch.tensor(spec.std)
        self.register_buffer("pixel_shift", shift.view(-1, 1, 1), persistent=False)

    @property
    def spec(self) -> ImageInput:
        return self._spec

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32, (x / 255 - mean) / std."""
        return pixels.permute(0, 3, 1, 2).float() * self.pixel_scale - self.pixel_shift

    def from_normalised(self, images: Tensor) -> Outputs:
        """(B, C, H, W) already normalised; noise without pixels enters here."""
        return self.backbone(images)

    def continuous(self, inputs: Tensor) -> Tensor:
        return self.normalise(inputs)

    def arguments(self, point: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
        return (point,)

    def step(self, epsilon: Tensor) -> Tensor:
        """`epsilon` in raw [0, 1] pixel units."""
        return epsilon.to(self.device) / torch.tensor(self.spec.std).view(-1, 1, 1).to(self.device)

    def present(self, inputs: Tensor) -> Tensor:
        return torch.ones((), device=inputs.device)

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Each pixel U{0..255}."""
        shape = (count, self.spec.height, self.spec.width, self.spec.channels)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


class TextClassifier(Classifier):
    """Token ids int64 (B, L), padded on the right -> Outputs, the same for any padding.

    `noise`: of which ids a text of pure noise is made; `noise_tokens`: its length with its frame,
    that of a typical text.
    """

    def __init__(
        self,
        backbone: TextBackbone,
        spec: TextInput,
        noise: TokenNoise | None = None,
        noise_tokens: int | None = None,
    ) -> None:
        super().__init__(backbone)
        self._spec = spec
        self._noise = noise or TokenNoise.of(spec)
        self.noise_tokens = noise_tokens or spec.max_tokens

    @property
    def spec(self) -> TextInput:
        return self._spec

    def mask(self, tokens: Tensor) -> Tensor:
        """(B, L) -> bool (B, L): True where a token stands, False on padding."""
        return tokens != self.spec.pad_id

    def continuous(self, inputs: Tensor) -> Tensor:
        return cast(TextBackbone, self.backbone).embed(inputs)

    def arguments(self, point: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
        return (point, self.mask(inputs))

    @torch.no_grad()
    def step(self, epsilon: Tensor) -> Tensor:
        """`epsilon` in units of the embeddings' spread: the root mean square distance of a value
        from its mean over the vocabulary."""
        table = self.continuous(self._words().to(self.device)[None])[0]
        return epsilon.to(self.device) * (table - table.mean(0)).square().mean().sqrt()

    def present(self, inputs: Tensor) -> Tensor:
        return self.mask(inputs)[:, :, None].float()

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Each token uniform over the words, between the tokens that frame every text."""
        shape = (count, self._noise.length(self.noise_tokens))
        chosen = torch.randint(0, len(self._noise.words), shape, generator=generator)
        return torch.from_numpy(self._noise.framed(chosen.numpy()))

    def _words(self) -> Tensor:
        """Every id but the reserved ones."""
        ids = torch.arange(self.spec.vocabulary_size)
        return ids[(ids != self.spec.pad_id) & (ids != self.spec.unknown_id)]


def example_inputs(spec: InputSpec, count: int, length: int = 1) -> Tensor:
    """Inputs of the right type and shape, drawn from a fixed seed; texts of `length` tokens."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(spec, TextInput):
        tokens = torch.randint(0, spec.vocabulary_size, (count, length), generator=generator)
        return torch.where(tokens == spec.pad_id, spec.unknown_id, tokens)
    pixels = torch.zeros(count, spec.height, spec.width, spec.channels, dtype=torch.uint8)
    return pixels.random_(0, 256, generator=generator)
