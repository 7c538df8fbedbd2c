"""The tokenizer a text config asks for: made of train-ID, of its symbols, or read from a file."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from service.bundle import TextEncoder, TextInput
from training.config import (
    FileTokenizer,
    SymbolTokenizer,
    TextConfig,
    WordTokenizer,
    expand_variables,
)
from training.data.input_set import DataError, DataUnavailable
from training.data.trimmed_vocabulary import trim_vocabulary

PAD, UNKNOWN = "[PAD]", "[UNK]"
# Scripts that put no spaces between words: each character is one.
_UNSPACED = Regex(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")


def make_tokenizer(config: TextConfig, train: Sequence[str]) -> tuple[Tokenizer, TextInput]:
    """The tokenizer and what a manifest says of it; `train`: the texts of train-ID, no others.

    Raises DataUnavailable where a tokenizer's file is absent, DataError where it cannot be used.
    """
    match config.tokenizer:
        case WordTokenizer() as words:
            return _described(_words(words, train), PAD, UNKNOWN, config.max_tokens)
        case SymbolTokenizer() as symbols:
            return _described(_symbols(symbols), PAD, UNKNOWN, config.max_tokens)
        case FileTokenizer() as file:
            reserved = (file.pad_token, file.unknown_token)
            return _described(_from_file(file, train), *reserved, config.max_tokens)


def _words(config: WordTokenizer, train: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_UNSPACED, "isolated"), pre_tokenizers.BertPreTokenizer()]
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.largest_vocabulary + 2,
        min_frequency=config.min_count,
        special_tokens=[PAD, UNKNOWN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(train, trainer)
    return tokenizer


def _symbols(config: SymbolTokenizer) -> Tokenizer:
    symbols = dict.fromkeys(config.symbols.upper())
    vocabulary = {symbol: index for index, symbol in enumerate([PAD, UNKNOWN, *symbols])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            *(normalizers.Replace(symbol.lower(), symbol) for symbol in symbols),
            normalizers.Replace(Regex(r"\s+"), ""),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.add_special_tokens([PAD, UNKNOWN])
    return tokenizer


def _from_file(config: FileTokenizer, train: Sequence[str]) -> Tokenizer:
    path = expand_variables(config.path)
    if path is None or not Path(path).is_file():
        raise DataUnavailable(f"text.tokenizer: no file {config.path}")
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as exc:  # tokenizers raises plain Exception
        raise DataError(f"text.tokenizer: {path} is no tokenizer ({exc})") from exc
    if config.largest_vocabulary is None:
        return tokenizer
    return trim_vocabulary(tokenizer, train, config.largest_vocabulary)


def _described(
    tokenizer: Tokenizer, pad: str, unknown: str, max_tokens: int
) -> tuple[Tokenizer, TextInput]:
    pad_id, unknown_id = tokenizer.token_to_id(pad), tokenizer.token_to_id(unknown)
    if pad_id is None or unknown_id is None:
        raise DataError(
            f"text.tokenizer: the vocabulary has no {pad if pad_id is None else unknown!r}; name "
            "its padding and unknown tokens in pad_token and unknown_token"
        )
    try:
        spec = TextInput(
            tokenizer="tokenizer.json",
            max_tokens=max_tokens,
            vocabulary_size=tokenizer.get_vocab_size(with_added_tokens=True),
            pad_id=pad_id,
            unknown_id=unknown_id,
        )
        TextEncoder(tokenizer, spec)
    except ValueError as exc:
        raise DataError(f"text.tokenizer: {exc}") from exc
    return tokenizer, spec
