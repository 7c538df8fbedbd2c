"""Tokenizers made of train-ID: what is a word, in any script, and which ids are reserved."""

import pytest

from service.bundle import TextEncoder
from training.config import TextConfig
from training.data.input_set import DataError
from training.data.vocabulary import make_tokenizer


def encoder(kind: dict[str, object], *train: str) -> TextEncoder:
    config = TextConfig.model_validate({"max_tokens": 20, "tokenizer": kind})
    return TextEncoder(*make_tokenizer(config, train))


def words(**changes: object) -> dict[str, object]:
    return {"kind": "word", "largest_vocabulary": 50, "min_count": 1} | changes


def test_words_are_of_train_alone_and_two_ids_are_reserved() -> None:
    made = encoder(words(), "Where is my card?", "my card, please")
    assert (made.spec.pad_id, made.spec.unknown_id) == (0, 1)
    assert made.spec.vocabulary_size == 2 + len(["where", "is", "my", "card", "?", ",", "please"])
    known = made.encode("MY CARD")
    assert known.tolist() == made.encode("my card").tolist()
    assert min(known) > 1
    assert made.encode("my dog").tolist() == [known[0], 1]


def test_the_commonest_words_are_kept() -> None:
    made = encoder(words(largest_vocabulary=2, min_count=2), "a a a b b c c d", "c")
    assert made.spec.vocabulary_size == 4
    assert [int(made.encode(word)[0]) > 1 for word in "acbd"] == [True, True, False, False]


@pytest.mark.parametrize("text", ["我的银行卡丢了", "カードをなくしました", "บัตรหาย"])
def test_in_scripts_without_spaces_a_character_is_a_word(text: str) -> None:
    made = encoder(words(), text)
    ids = made.encode(text)
    assert len(ids) > 5
    assert min(ids) > 1
    assert made.encode(f"{text[0]} {text[1]}").tolist() == ids[:2].tolist()


def test_symbols_in_either_case_and_nothing_else() -> None:
    made = encoder({"kind": "symbols", "symbols": "ACGT"}, "ignored")
    assert made.encode("ac gT\nN").tolist() == [2, 3, 4, 5, 1]


def test_a_file_without_the_reserved_tokens_is_refused(tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("file")
    made = encoder(words(), "a b")
    made._tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"kind": "file", "path": str(folder / "tokenizer.json"), "pad_token": "<none>"}
    with pytest.raises(DataError, match="the vocabulary has no '<none>'"):
        encoder(kind)
