"""A text of pure noise: tokens alike over the vocabulary, in the frame of a real text."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.bundle import TextInput


@dataclass(frozen=True)
class TokenNoise:
    """words: the ids that noise draws from, int64 (V,); before, after: the ids that the tokenizer
    puts around every text, and so around noise (none for most tokenizers)."""

    words: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]

    @classmethod
    def of(cls, spec: TextInput, tokenizer: Tokenizer | None = None) -> "TokenNoise":
        """No padding, no unknown, none of the markers of the tokenizer's model is a word; without
        a tokenizer nothing but padding and unknown is known to be none."""
        reserved = {spec.pad_id, spec.unknown_id}
        before, after = _NONE, _NONE
        if tokenizer is not None:
            added = tokenizer.get_added_tokens_decoder()
            reserved |= {index for index, token in added.items() if token.special}
            before, after = _frame(tokenizer, reserved)
        return cls(np.setdiff1d(np.arange(spec.vocabulary_size), list(reserved)), before, after)

    def length(self, tokens: int) -> int:
        """The words of a text that has `tokens` with its frame, at least 1."""
        return max(tokens - len(self.before) - len(self.after), 1)

    def framed(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in `words` (N, L) -> token ids (N, L + frame)."""
        rows = len(chosen)
        before, after = (np.tile(each, (rows, 1)) for each in (self.before, self.after))
        return np.concatenate([before, self.words[chosen], after], axis=1)


_NONE = np.zeros(0, dtype=np.int64)


def _frame(tokenizer: Tokenizer, reserved: set[int]) -> tuple[NDArray[np.int64], ...]:
    """The ids before and behind a text's own; seen in the first word of the vocabulary that is
    read as a text.  ValueError where no word is."""
    if tokenizer.num_special_tokens_to_add(is_pair=False) == 0:
        return _NONE, _NONE
    for index in range(tokenizer.get_vocab_size()):
        if index in reserved:
            continue
        encoding = tokenizer.encode(tokenizer.id_to_token(index) or "")
        own = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
        if len(own):
            ids = np.array(encoding.ids, dtype=np.int64)
            return ids[: own[0]], ids[own[-1] + 1 :]
    raise ValueError("the tokenizer reads no word of its own vocabulary")
