"""Text -> the token ids the graph reads.  The only definition, training and serving.

Normalisation (case, Unicode form), splitting, special tokens and the vocabulary stand in the
bundle's tokenizer.json.  Here: at most `max_tokens` ids of a text, the first ones, special
tokens counted in; padding on the right, to the longest text of a batch.  No more of a text than
its first 64 characters per token of `max_tokens` is read, so that a megabyte costs no seconds.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import BundleCorrupt
from service.bundle.manifest import TextInput

# texts come one by one; otherwise a pool of threads is made, and every later fork is warned of
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer

CHARACTERS_PER_TOKEN = 64


class TextUnusable(ValueError):
    """A text that no token can be made of; the message says why."""


@dataclass(frozen=True)
class Tokens:
    """ids (L,), 1 <= L <= max_tokens; `truncated`: the text goes on behind them."""

    ids: NDArray[np.int64]
    truncated: bool


class TextEncoder:
    """A tokenizer with its truncation.  May be shared by threads."""

    def __init__(self, tokenizer: Tokenizer, spec: TextInput) -> None:
        """ValueError where vocabulary or special tokens and spec contradict each other."""
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        if size != spec.vocabulary_size:
            raise ValueError(f"the tokenizer has {size} ids, expected {spec.vocabulary_size}")
        for name, reserved in (("pad_id", spec.pad_id), ("unknown_id", spec.unknown_id)):
            if tokenizer.id_to_token(reserved) is None:
                raise ValueError(f"the tokenizer knows no id {reserved}, the {name}")
        # what the tokenizer adds to every text
        self._specials = tokenizer.num_special_tokens_to_add(is_pair=False)
        if self._specials >= spec.max_tokens:
            raise ValueError(
                f"{self._specials} special tokens leave no room in max_tokens {spec.max_tokens}"
            )
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # a text that spells "[PAD]" is text
        tokenizer.enable_truncation(spec.max_tokens)  # pyright: ignore[reportUnknownMemberType]
        self.spec = spec
        self._tokenizer = tokenizer
        self._max_characters = CHARACTERS_PER_TOKEN * spec.max_tokens

    @classmethod
    def load(cls, path: Path, spec: TextInput) -> "TextEncoder":
        """Raises BundleCorrupt: not a tokenizer, or not the one the manifest describes."""
        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")), spec)
        except Exception as exc:  # tokenizers raises plain Exception
            raise BundleCorrupt(path, f"is not the bundle's tokenizer ({exc})") from exc

    def encode(self, text: str) -> NDArray[np.int64]:
        """One text -> (L,), 1 <= L <= max_tokens.  Raises TextUnusable."""
        return self.tokens(text).ids

    def tokens(self, text: str) -> Tokens:
        """One text.  Other threads run meanwhile.

        Raises TextUnusable: nothing but white space or what the tokenizer drops; unpaired
        surrogates, which are no Unicode text; a text that the tokenizer itself refuses.
        """
        read = text[: self._max_characters]
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise TextUnusable(no_unicode(exc)) from exc
        try:
            # not `encode`, which keeps the interpreter's lock
            (encoding,) = self._tokenizer.encode_batch([read])
        except Exception as exc:  # tokenizers raises plain Exception
            raise TextUnusable(f"the tokenizer refuses the text ({exc})") from exc
        if len(encoding.ids) <= self._specials:
            within = "" if read == text else f" in its first {len(read)} characters"
            raise TextUnusable(f"the text is empty: the tokenizer finds no token in it{within}")
        truncated = len(read) < len(text) or bool(encoding.overflowing)
        ids = np.array(encoding.ids, dtype=np.int64)
        # a model's own vocabulary may let a text spell padding, which the graph would not see
        ids[ids == self.spec.pad_id] = self.spec.unknown_id
        return Tokens(ids, truncated)

    def encode_all(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """N >= 1 texts -> (N, L), padded.  Raises TextUnusable, naming the text's number."""
        rows: list[NDArray[np.int64]] = []
        for index, text in enumerate(texts):
            try:
                rows.append(self.encode(text))
            except TextUnusable as exc:
                raise TextUnusable(f"text {index}: {exc}") from exc
        return pad_tokens(rows, self.spec.pad_id)


def no_unicode(error: UnicodeEncodeError) -> str:
    """What is wrong with a text that cannot be written as UTF-8."""
    return (
        f"the text is no Unicode at character {error.start}: half a surrogate pair, or a byte that "
        "was not UTF-8; send valid Unicode"
    )


def pad_tokens(rows: Sequence[NDArray[np.int64]], pad_id: int) -> NDArray[np.int64]:
    """Rows (L_i,) -> (N, max L_i), `pad_id` on the right."""
    padded = np.full((len(rows), max(len(row) for row in rows)), pad_id, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
