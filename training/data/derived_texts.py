"""Texts made by code: noise, ID rewritten (the control), proxy outliers.

Proxy outliers may tune something; a set that is reported may not; the two share no generator.
Each proxy breaks another property of ID texts and leaves the rest, from near to far:
splice     the topic: half of one text, half of one of another class
shuffle    the order of the words; the words stay
word_soup  the company of the words: each drawn from all words; how common they are stays
scramble   the words: the characters of each in another order; their number and lengths stay
A word is what stands between white space; of a text without any, a character.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Tokenizer

from service.bundle import TextInput
from training.data.input_set import DataError
from training.data.raw_texts import RawTexts
from training.data.text_set import TextSet
from training.token_noise import TokenNoise

Draw = np.random.Generator


@dataclass(frozen=True)
class NoiseTexts:
    """Texts of noise, still to be drawn: `tokens` words each, uniform over the vocabulary."""

    name: str
    count: int
    tokens: int
    seed: int

    @property
    def origin(self) -> str:
        return f"{self.tokens} tokens of uniform noise, seed {self.seed}"

    def __len__(self) -> int:
        return self.count

    def drawn(self, spec: TextInput, tokenizer: Tokenizer) -> TextSet:
        """In the frame that the tokenizer gives every text."""
        noise = TokenNoise.of(spec, tokenizer)
        shape = (self.count, min(self.tokens, noise.length(spec.max_tokens)))
        chosen = np.random.default_rng(self.seed).integers(0, len(noise.words), shape)
        words = [tokenizer.id_to_token(int(index)) or "" for index in noise.words]
        texts = tuple(" ".join(words[index] for index in row) for row in chosen)
        tokens = noise.framed(chosen)
        return TextSet(
            self.name, tokens, np.full(self.count, -1), (), self.origin, texts, spec.pad_id
        )


def read_token_noise(
    name: str, *, count: int = 10_000, tokens: int = 20, seed: int = 0
) -> NoiseTexts:
    """The noise of Hendrycks et al. 2019, arXiv:1812.04606: 20 ids, uniform."""
    if count < 1 or tokens < 1:
        raise DataError(f"{name}: {count} texts of {tokens} tokens; both must be positive")
    return NoiseTexts(name, count, tokens, seed)


def rewrite(texts: RawTexts) -> RawTexts:
    """The same content in another form: white space doubled, Unicode form NFD, a to z as A to Z.

    A tokenizer that normalises them sees the same tokens; a detector that fires here sees form.
    """
    capitals = {letter: letter - 32 for letter in range(ord("a"), ord("z") + 1)}

    def rewritten(text: str) -> str:
        return unicodedata.normalize("NFD", "  ".join(text.split()).translate(capitals))

    return replace(
        texts,
        name=f"{texts.name}-rewritten",
        texts=tuple(rewritten(text) for text in texts.texts),
        origin=f"{texts.origin}, white space doubled, NFD, in capitals",
    )


def splice(texts: RawTexts, rng: Draw) -> list[str]:
    """The first half of each text's words, then the second half of one of another class.

    DataError where all texts are of one class.
    """
    halves = [
        (words[: (len(words) + 1) // 2], words[len(words) // 2 :], glue)
        for words, glue in map(_words, texts.texts)
    ]
    found = []
    for label, (head, _, glue) in zip(texts.labels, halves, strict=True):
        others = np.flatnonzero(texts.labels != label)
        if len(others) == 0:
            raise DataError(f"splice: all texts have the label {label}; it needs two classes")
        found.append(glue.join([*head, *halves[rng.choice(others)][1]]))
    return found


def shuffle(texts: RawTexts, rng: Draw) -> list[str]:
    """The words of each text in another order."""
    return [
        glue.join(words[i] for i in rng.permutation(len(words)))
        for words, glue in map(_words, texts.texts)
    ]


def word_soup(texts: RawTexts, rng: Draw) -> list[str]:
    """Each word replaced by one drawn from the words of all texts."""
    pool = [word for text in texts.texts for word in _words(text)[0]]
    return [
        glue.join(pool[i] for i in rng.integers(0, len(pool), len(words)))
        for words, glue in map(_words, texts.texts)
    ]


def scramble(texts: RawTexts, rng: Draw) -> list[str]:
    """The characters of each word in another order; of a text without white space, of all."""
    return [
        " ".join("".join(word[i] for i in rng.permutation(len(word))) for word in text.split())
        for text in texts.texts
    ]


TEXT_PROXIES: dict[str, Callable[[RawTexts, Draw], list[str]]] = {
    "splice": splice,
    "shuffle": shuffle,
    "word_soup": word_soup,
    "scramble": scramble,
}


def text_proxy_outliers(
    id_texts: RawTexts, kinds: tuple[str, ...], seed: int
) -> dict[str, RawTexts]:
    """Unlabelled outliers by kind; a kind's texts do not depend on the other kinds asked for."""
    unknown = set(kinds) - set(TEXT_PROXIES)
    if unknown:
        raise ValueError(
            f"unknown proxy outliers {sorted(unknown)}; choose of {sorted(TEXT_PROXIES)}"
        )
    unlabelled = np.full(len(id_texts), -1)
    numbers = {kind: number for number, kind in enumerate(TEXT_PROXIES)}
    return {
        kind: replace(
            id_texts,
            name=kind,
            texts=tuple(TEXT_PROXIES[kind](id_texts, np.random.default_rng([seed, numbers[kind]]))),
            labels=unlabelled,
            origin=f"{kind} of {id_texts.name}, seed {seed}",
        )
        for kind in kinds
    }


def _words(text: str) -> tuple[list[str], str]:
    """The words of a text and what to join them with."""
    words = text.split()
    return (words, " ") if len(words) > 1 else (list(text.strip()), "")
