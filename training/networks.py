"""A classifier by the names of a config, for images or for texts."""

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

from service.bundle import Modality, TextInput
from training.backbones import BACKBONES, TEXT_BACKBONES
from training.classifier import Classifier, ImageClassifier, InputSpec, TextClassifier
from training.token_noise import TokenNoise

# networks whose word embeddings come trained: they must know what each id stands for
_OF_WORDS = frozenset({"hf_encoder"})


def backbones_of(modality: Modality) -> Mapping[str, Callable[..., Any]]:
    """The registry of a modality's networks."""
    return TEXT_BACKBONES if modality == "text" else BACKBONES


def build_classifier(
    spec: InputSpec,
    backbone: str,
    options: Mapping[str, Any],
    classes: int | None,
    noise_tokens: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Classifier:
    """A new network, weights from torch's global seed; `noise_tokens` as of TextClassifier.

    `tokenizer`: of texts; it may stay out where the weights of a bundle follow.
    """
    if isinstance(spec, TextInput):
        if tokenizer is not None and backbone in _OF_WORDS:
            words = [tokenizer.id_to_token(index) for index in range(spec.vocabulary_size)]
            options = {**options, "words": words}
        network = TEXT_BACKBONES[backbone](spec.vocabulary_size, classes, **options)
        return TextClassifier(network, spec, TokenNoise.of(spec, tokenizer), noise_tokens)
    return ImageClassifier(BACKBONES[backbone](spec.channels, classes, **options), spec)
