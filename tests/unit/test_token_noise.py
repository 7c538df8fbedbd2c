"""Noise of texts looks like a text to the network in everything but its words."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from service.bundle import TextInput
from training.data.derived_texts import read_token_noise
from training.networks import build_classifier
from training.token_noise import TokenNoise

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "##ish"]
SPEC = TextInput(
    tokenizer="tokenizer.json", vocabulary_size=len(WORDS), max_tokens=6, pad_id=0, unknown_id=1
)


def make_tokenizer(template: str | None) -> Tokenizer:
    unknown = WORDS[1]
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token=unknown))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(WORDS[:5])
    if template is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return tokenizer


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        (None, [], []),
        ("[CLS] $A [SEP]", [2], [3]),
        ("$A [SEP]", [], [3]),
        ("[CLS] [SEP] $A", [2, 3], []),
    ],
)
def test_noise_stands_in_the_frame_of_a_text(
    template: str | None, before: list[int], after: list[int]
) -> None:
    tokenizer = make_tokenizer(template)
    noise = TokenNoise.of(SPEC, tokenizer)
    assert noise.before.tolist() == before
    assert noise.after.tolist() == after
    assert noise.words.tolist() == [5, 6, 7, 8]  # no marker is ever drawn
    text = tokenizer.encode("red green blue").ids
    assert noise.framed(np.array([[0, 1, 2]])).tolist() == [text]


def test_read_noise_and_the_noise_of_a_classifier_are_of_one_kind() -> None:
    """Both are as long as asked for, framed, and use every word."""
    tokenizer = make_tokenizer("[CLS] $A [SEP]")
    classifier = build_classifier(
        SPEC, "gru", {"embedding": 4, "hidden": 4, "layers": 1}, 2, 5, tokenizer
    )
    own = classifier.noise(200, torch.Generator().manual_seed(0)).numpy()
    read = read_token_noise("noise", count=200, tokens=3).drawn(SPEC, tokenizer)
    for tokens in (own, read.inputs):
        assert tokens.shape == (200, 5)
        assert set(tokens[:, 0]) == {2}
        assert set(tokens[:, -1]) == {3}
        assert set(tokens[:, 1:-1].ravel()) == {5, 6, 7, 8}
    assert len(read.texts[0].split()) == 3


def test_long_noise_is_cut_like_a_long_text() -> None:
    tokenizer = make_tokenizer("[CLS] $A [SEP]")
    read = read_token_noise("noise", count=2, tokens=50).drawn(SPEC, tokenizer)
    assert read.inputs.shape == (2, SPEC.max_tokens)
    assert set(read.inputs[:, -1]) == {3}


def test_a_network_restored_without_its_tokenizer_draws_no_padding() -> None:
    noise = TokenNoise.of(SPEC)
    assert noise.words.tolist() == list(range(2, len(WORDS)))
    assert len(noise.before) == len(noise.after) == 0
