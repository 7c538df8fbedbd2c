"""A Hugging Face classifier of texts from a folder of this machine: `backbone = "hf_classifier"`.

    backbone_options = { folder = "${MODELS}/intents", layers = [2, 4] }

The folder holds config.json, model.safetensors and tokenizer.json, as `save_pretrained` writes
them.  Nothing is downloaded, nothing is unpickled, no code of the folder is run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from training.backbones.hf_encoder import (
    Pooling,
    existing_folder,
    rows_of,
    transformers_library,
)
from training.backbones.sequences import mean_of_valid
from training.backbones.tapped import PENULTIMATE, linear_head
from training.outputs import Outputs


class HuggingFaceClassifier(nn.Module):
    """Taps: pooled hidden states, `layer<i>` of the named `layers` (from 1; a quarter, half and
    three quarters of them where none are named), and `penultimate`, what the last linear layer
    reads.

    folder      the classifier.  None where the checkpoint of a bundle follows; `encoder` is then
                its description, config.json as `encoder_config` keeps it.
    words       what each token id stands for: a part of the folder's vocabulary, in any order.
    pooling     of the taps: the first token, or the mean over the tokens.

    ValueError where the folder, its files, the vocabulary, the classes or a layer do not fit.
    """

    encoder_config: Tensor
    penultimate = PENULTIMATE

    def __init__(
        self,
        vocabulary_size: int,
        classes: int | None,
        *,
        folder: str | None = None,
        encoder: dict[str, Any] | None = None,
        words: Sequence[str] | None = None,
        pooling: Pooling = "cls",
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"hf_classifier: pooling {pooling!r}; choose mean or cls")
        if (folder is None) == (encoder is None):
            raise ValueError("hf_classifier: give `folder`, the classifier's place on this machine")
        if folder is not None:
            self.model = _from_folder(existing_folder(folder), vocabulary_size, words)
        else:
            self.model = _untrained(encoder or {}, vocabulary_size)
        description = json.dumps(self.model.config.to_diff_dict(), sort_keys=True)
        self.register_buffer(
            "encoder_config", torch.tensor(list(description.encode()), dtype=torch.uint8)
        )
        self.pooling = pooling
        count = self.model.config.num_hidden_layers
        quarters = sorted({count * quarter // 4 for quarter in (1, 2, 3)} - {0})
        self.tapped_layers = tuple(quarters if layers is None else layers)
        if list(self.tapped_layers) != sorted(set(self.tapped_layers) & set(range(1, count + 1))):
            raise ValueError(
                f"hf_classifier: layers {list(self.tapped_layers)}; expected rising numbers from "
                f"1 to {count}"
            )
        self.tap_names = (*(f"layer{i}" for i in self.tapped_layers), PENULTIMATE)
        self.head_name = linear_head(self.model)
        if classes not in (None, self.head.out_features):
            raise ValueError(
                f"hf_classifier: {folder or 'the bundle'} has {self.head.out_features} classes, "
                f"the data {classes}"
            )

    @property
    def head(self) -> nn.Linear:
        layer = self.model.get_submodule(self.head_name)
        assert isinstance(layer, nn.Linear)  # noqa: S101
        return layer

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(tokens)

    def forward(self, embedded: Tensor, mask: Tensor) -> Outputs:
        """(B, L, E), bool (B, L) -> taps (B, D).  ValueError where the head gives no logits."""
        read: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _, given: read.append(given[0]))
        try:
            given = self.model(
                inputs_embeds=embedded, attention_mask=mask.long(), output_hidden_states=True
            )
        finally:
            handle.remove()
        if len(read) != 1 or read[0].dim() != 2:
            raise ValueError(
                f"hf_classifier: {type(self.model).__name__} does not make its logits of one "
                "vector a text by a linear layer, so it cannot be tapped"
            )
        states = [given.hidden_states[i] for i in self.tapped_layers]
        pooled = [
            each[:, 0] if self.pooling == "cls" else mean_of_valid(each, mask) for each in states
        ]
        return Outputs(
            dict(zip(self.tap_names, (*pooled, read[0]), strict=True)), given.logits, PENULTIMATE
        )


def _from_folder(folder: Path, vocabulary_size: int, words: Sequence[str] | None) -> Any:
    library = transformers_library()
    try:
        model = library.AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="eager",
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise ValueError(f"hf_classifier: {folder} holds no classifier of texts ({exc})") from exc
    _refuse_decoders(model.config)
    table = model.get_input_embeddings().weight.detach()
    if words is not None:
        table = table[rows_of(folder, words)]
    if len(table) < vocabulary_size:
        raise ValueError(
            f"hf_classifier: {len(table)} word embeddings for a tokenizer of {vocabulary_size} "
            f"ids; name the classifier's own {folder / 'tokenizer.json'} in [text]"
        )
    rows = table[:vocabulary_size].clone()
    return _with_words(model, nn.Embedding.from_pretrained(rows, freeze=False))


def _untrained(description: dict[str, Any], vocabulary_size: int) -> Any:
    library = transformers_library()
    config = library.AutoConfig.for_model(**description)
    model = library.AutoModelForSequenceClassification.from_config(
        config, attn_implementation="eager"
    )
    width = model.get_input_embeddings().embedding_dim
    return _with_words(model, nn.Embedding(vocabulary_size, width))


def _with_words(model: Any, words: nn.Embedding) -> Any:
    model.set_input_embeddings(words)
    model.config.vocab_size = words.num_embeddings
    return model.eval()


def _refuse_decoders(config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        raise ValueError(
            f"hf_classifier: {config.model_type} is no encoder; one whose tokens see the whole "
            "text is expected"
        )
