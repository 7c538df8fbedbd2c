"""Generators of outliers by name.  A new one is one file and one line here."""

from collections.abc import Callable

from training.generators.gan import ConditionalGan
from training.generators.judge import (
    Judge,
    choose_spread,
    nearest_image_judge,
    share_accepted,
)
from training.generators.language_model import LanguageModel
from training.generators.protocol import ImageGenerator
from training.generators.vae import ConditionalVae

# (channels, height, width, classes, **options)
IMAGE_GENERATORS: dict[str, Callable[..., ImageGenerator]] = {
    "gan": ConditionalGan,
    "vae": ConditionalVae,
}

# (vocabulary_size, **options)
TEXT_GENERATORS: dict[str, Callable[..., LanguageModel]] = {"transformer": LanguageModel}

__all__ = [
    "IMAGE_GENERATORS",
    "TEXT_GENERATORS",
    "ImageGenerator",
    "Judge",
    "LanguageModel",
    "choose_spread",
    "nearest_image_judge",
    "share_accepted",
]
