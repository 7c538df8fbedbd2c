"""A classifier by the names of a config, for images or for texts."""

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer

from service.bundle import Modality, TextInput
from training.backbones import BACKBONES, TEXT_BACKBONES, LatentNetwork
from training.classifier import Classifier, ImageClassifier, InputSpec, TextClassifier
from training.token_noise import TokenNoise

# networks whose word embeddings come trained: they must know what each id stands for
_OF_WORDS = frozenset({"hf_classifier", "hf_encoder"})


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

    `tokenizer`: of texts; it may stay out where the weights of a bundle follow.  The option
    `latent_dim` puts one more linear layer before the head of any backbone.
    """
    options = dict(options)
    latent_dim = options.pop("latent_dim", None)

    def made(make: Callable[..., Any], first: int) -> Any:
        if latent_dim is None:
            return make(first, classes, **options)
        if classes is None:
            raise ValueError(f"latent_dim does not go with backbone {backbone}; leave it out")
        return LatentNetwork(make, first, classes, latent_dim, **options)

    if isinstance(spec, TextInput):
        if tokenizer is not None and backbone in _OF_WORDS:
            words = [tokenizer.id_to_token(index) for index in range(spec.vocabulary_size)]
            options["words"] = words
        network = made(TEXT_BACKBONES[backbone], spec.vocabulary_size)
        return TextClassifier(network, spec, TokenNoise.of(spec, tokenizer), noise_tokens)
    return ImageClassifier(made(BACKBONES[backbone], spec.channels), spec)
