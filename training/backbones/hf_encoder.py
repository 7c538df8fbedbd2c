"""Any Hugging Face encoder from a folder of this machine: `backbone = "hf_encoder"`.

    backbone_options = { folder = "${MODELS}/all-MiniLM-L6-v2", layers = [2, 4] }

The folder holds config.json and model.safetensors, as `save_pretrained` writes them.  Nothing is
downloaded, nothing is unpickled, no code of the folder is run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from training.backbones.sequences import StepDropout, mean_of_valid
from training.config import expand_variables
from training.outputs import Outputs

Pooling = Literal["mean", "cls"]
_WEIGHTS = "model.safetensors"
_TOKENIZER = "tokenizer.json"


class HuggingFaceEncoder(nn.Module):
    """Taps: pooled hidden states, `layer<i>` of the named `layers` (from 1; every second one
    where none are named) and `pooled` of the last; with a `projection` to so many features
    `projected`, its tanh, follows and is penultimate.

    folder      the encoder.  None where the checkpoint of a bundle follows, which has it whole:
                `encoder` is then its description, config.json as `encoder_config` keeps it.
    words       what each token id stands for, where ids are not those of the folder's own
                tokenizer.json: a part of its vocabulary, in any order.
    pooling     mean over the tokens, or the first token.
    frozen      the encoder keeps its weights and runs without dropout; the rest is trained.
    dropout     of the features and wherever the encoder drops hidden units, the same units at
                every token; attention drops none.

    ValueError where the folder, its files, the vocabulary or a layer's number do not fit.
    """

    encoder_config: Tensor

    def __init__(
        self,
        vocabulary_size: int,
        classes: int,
        *,
        folder: str | None = None,
        encoder: dict[str, Any] | None = None,
        words: Sequence[str] | None = None,
        pooling: Pooling = "mean",
        layers: Sequence[int] | None = None,
        frozen: bool = False,
        dropout: float = 0.1,
        projection: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"hf_encoder: pooling {pooling!r}; choose mean or cls")
        if (folder is None) == (encoder is None):
            raise ValueError("hf_encoder: give `folder`, the encoder's place on this machine")
        if folder is not None:
            self.encoder = _from_folder(existing_folder(folder), vocabulary_size, words)
        else:
            self.encoder = _untrained(encoder or {}, vocabulary_size)
        _drop_same_units(self.encoder, 0.0 if frozen else dropout)
        description = json.dumps(self.encoder.config.to_diff_dict(), sort_keys=True)
        self.register_buffer(
            "encoder_config", torch.tensor(list(description.encode()), dtype=torch.uint8)
        )
        self.pooling = pooling
        self.frozen = frozen
        count, width = self.encoder.config.num_hidden_layers, self.encoder.config.hidden_size
        self.tapped_layers = tuple(range(2, count, 2) if layers is None else layers)
        if list(self.tapped_layers) != sorted(set(self.tapped_layers) & set(range(1, count))):
            raise ValueError(
                f"hf_encoder: layers {list(self.tapped_layers)}; expected rising numbers from 1 to "
                f"{count - 1}: the last layer, {count}, is tapped as `pooled`"
            )
        self.projection = None if projection is None else nn.Linear(width, projection)
        self.penultimate = "pooled" if projection is None else "projected"
        self.tap_names = tuple(
            dict.fromkeys((*(f"layer{i}" for i in self.tapped_layers), "pooled", self.penultimate))
        )
        self.dropout_features = nn.Dropout(dropout)
        self.fc = nn.Linear(projection or width, classes)
        if frozen:
            self.encoder.requires_grad_(False)

    @property
    def head(self) -> nn.Linear:
        return self.fc

    def train(self, mode: bool = True) -> "HuggingFaceEncoder":
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def embed(self, tokens: Tensor) -> Tensor:
        return self.encoder.get_input_embeddings()(tokens)

    def forward(self, embedded: Tensor, mask: Tensor) -> Outputs:
        """(B, L, E), bool (B, L) -> taps (B, D).  ValueError for more tokens than positions."""
        self._check_length(embedded.shape[1])
        given = self.encoder(
            inputs_embeds=embedded, attention_mask=mask.long(), output_hidden_states=True
        )
        states: list[Tensor] = [given.hidden_states[i] for i in self.tapped_layers]
        pooled = [self._pool(each, mask) for each in (*states, given.last_hidden_state)]
        if self.projection is not None:
            pooled.append(torch.tanh(self.projection(pooled[-1])))
        logits = self.fc(self.dropout_features(pooled[-1]))
        return Outputs(dict(zip(self.tap_names, pooled, strict=True)), logits, self.penultimate)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        return states[:, 0] if self.pooling == "cls" else mean_of_valid(states, mask)

    def _check_length(self, length: int) -> None:
        positions = getattr(self.encoder.config, "max_position_embeddings", None)
        table = getattr(getattr(self.encoder, "embeddings", None), "position_embeddings", None)
        padding: int | None = getattr(table, "padding_idx", None)
        if positions is not None and padding is not None:
            positions -= padding + 1  # RoBERTa counts from behind its padding
        # under export the length is a symbol; a graph refuses positions it does not have
        if torch.compiler.is_exporting() or positions is None or length <= positions:
            return
        raise ValueError(
            f"hf_encoder: {length} tokens for {positions} positions; lower max_tokens in [text]"
        )


def described_encoder(state: dict[str, Tensor]) -> dict[str, Any]:
    """The `encoder` that a checkpoint of this backbone belongs to."""
    return json.loads(bytes(state["encoder_config"].tolist()))


def transformers_library() -> Any:
    try:
        import transformers
    except ImportError as exc:
        raise ValueError(
            "hf_encoder needs the package transformers: pip install 'oodscore[transformers]'"
        ) from exc
    transformers.utils.logging.disable_progress_bar()  # of files that are read in a moment
    return transformers


def existing_folder(folder: str) -> Path:
    expanded = expand_variables(folder)
    if expanded is None:
        raise ValueError(f"hf_encoder: folder {folder}: a variable in it is not set")
    path = Path(expanded)
    for name in ("config.json", _WEIGHTS):
        if not (path / name).is_file():
            raise ValueError(
                f"hf_encoder: folder {folder} has no {name}; nothing is downloaded, so save the "
                "encoder there first (save_pretrained, safetensors)"
            )
    return path


def _from_folder(folder: Path, vocabulary_size: int, words: Sequence[str] | None) -> Any:
    library = transformers_library()
    try:
        read = library.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        config = _as_exported(read)
        encoder = library.AutoModel.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="eager",
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise ValueError(f"hf_encoder: {folder} holds no encoder ({exc})") from exc
    table = encoder.get_input_embeddings().weight.detach()
    if words is not None:
        table = table[rows_of(folder, words)]
    if len(table) < vocabulary_size:
        raise ValueError(
            f"hf_encoder: {len(table)} word embeddings for a tokenizer of {vocabulary_size} ids; "
            f"name the encoder's own {folder / _TOKENIZER} as the tokenizer in [text]"
        )
    # some tables are longer than their vocabulary, to be of a round size
    return _with_words(encoder, nn.Embedding.from_pretrained(table[:vocabulary_size], freeze=False))


def _untrained(description: dict[str, Any], vocabulary_size: int) -> Any:
    library = transformers_library()
    config = _as_exported(library.AutoConfig.for_model(**description))
    encoder = library.AutoModel.from_config(config, attn_implementation="eager")
    width = encoder.get_input_embeddings().embedding_dim
    return _with_words(encoder, nn.Embedding(vocabulary_size, width))


def _as_exported(config: Any) -> Any:
    """Attention without dropout, which no mask of a fixed size could repeat."""
    if config.is_encoder_decoder:
        raise ValueError(f"hf_encoder: {config.model_type} is no encoder alone")
    for name, value in config.to_dict().items():
        if "att" in name and "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _with_words(encoder: Any, words: nn.Embedding) -> Any:
    encoder.set_input_embeddings(words)
    encoder.config.vocab_size = words.num_embeddings
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # trained for another task, and not read
    return encoder


def _drop_same_units(encoder: nn.Module, dropout: float) -> None:
    for parent in list(encoder.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Dropout) and layer.p > 0:
                setattr(parent, name, StepDropout(dropout))


def rows_of(folder: Path, words: Sequence[str]) -> list[int]:
    """Where the words stand in the vocabulary of the folder's tokenizer."""
    path = folder / _TOKENIZER
    if not path.is_file():
        raise ValueError(f"hf_encoder: {folder} has no {_TOKENIZER}, which says what its rows mean")
    known = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    if foreign := [word for word in words if word not in known]:
        raise ValueError(
            f"hf_encoder: {path} does not know {foreign[:5]}, ids of the tokenizer in [text]; name "
            "the encoder's own there"
        )
    return [known[word] for word in words]
