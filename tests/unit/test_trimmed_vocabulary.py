"""Parts of a WordPiece vocabulary: what stays, what texts become, refusals."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from training.data.input_set import DataError
from training.data.trimmed_vocabulary import trim_vocabulary

LETTERS = "abcdefghij"
SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]"]
COMMON = ["be", "had", "cab", "##ed", "##gi", "bead", "cafe", "jade", "##head"]
PIECES = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *COMMON]
# five special tokens less one, twenty characters, and of train: jade, ##ed
NEEDED = 4 + 20 + 2


def whole(processor: str = "template") -> Tokenizer:
    vocabulary = {piece: index for index, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    template = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    bert = processors.BertProcessing(*ends)
    chosen = {
        "template": template,
        "bert": bert,
        "sequence": processors.Sequence([template]),
        "none": None,
    }[processor]
    if chosen is not None:
        tokenizer.post_processor = chosen
    tokenizer.add_special_tokens([token for token in SPECIAL if token != "[unused0]"])  # noqa: S105
    return tokenizer


def test_what_stays() -> None:
    trimmed = trim_vocabulary(whole(), ["jadeed"], NEEDED + 2)
    words = [trimmed.id_to_token(index) for index in range(trimmed.get_vocab_size())]
    kept = {"be", "had", "jade", "##ed"}  # the two commonest of the rest
    dropped = {"[unused0]", *(piece for piece in COMMON if piece not in kept)}
    assert words == [piece for piece in PIECES if piece not in dropped]


@pytest.mark.parametrize("processor", ["template", "bert", "sequence", "none"])
def test_texts_of_train_keep_their_pieces(processor: str) -> None:
    before, trimmed = whole(processor), trim_vocabulary(whole(processor), ["jadeed"], NEEDED)
    found, expected = trimmed.encode("Jadeed JADE"), before.encode("Jadeed JADE")
    assert found.tokens == expected.tokens
    assert [trimmed.id_to_token(index) for index in found.ids] == expected.tokens


def test_every_other_text_is_spelled_with_shorter_pieces() -> None:
    before, trimmed = whole(), trim_vocabulary(whole(), ["jadeed"], NEEDED)
    assert before.encode("bead").tokens == ["[CLS]", "bead", "[SEP]"]
    assert trimmed.encode("bead").tokens == ["[CLS]", "b", "##e", "##a", "##d", "[SEP]"]
    for word in ("cafe", "cabhead", "habed", "egi"):
        spelled = "".join(piece.removeprefix("##") for piece in trimmed.encode(word).tokens[1:-1])
        assert spelled == word
    assert (
        trimmed.encode("zoo").tokens == before.encode("zoo").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    )


def test_the_original_stays_as_it_was() -> None:
    tokenizer = whole()
    trim_vocabulary(tokenizer, [], NEEDED)
    assert tokenizer.to_str() == whole().to_str()


def test_too_few_places_are_refused() -> None:
    with pytest.raises(DataError, match=rf"{NEEDED}; largest_vocabulary is {NEEDED - 1}"):
        trim_vocabulary(whole(), ["jadeed"], NEEDED - 1)


def test_other_models_are_refused() -> None:
    with pytest.raises(DataError, match="WordLevel"):
        trim_vocabulary(Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]")), [], 100)


def test_the_result_is_a_file_of_its_own() -> None:
    trimmed: dict[str, Any] = json.loads(trim_vocabulary(whole(), [], NEEDED).to_str())
    assert trimmed["model"]["vocab"]["[UNK]"] == 1
    assert {token["content"]: token["id"] for token in trimmed["added_tokens"]}["[SEP]"] == 3


def test_an_added_token_that_the_model_does_not_know_stays() -> None:
    tokenizer = whole()
    tokenizer.add_tokens(["ticketid"])
    trimmed = trim_vocabulary(tokenizer, ["jadeed"], NEEDED + 3)
    assert trimmed.get_vocab_size(with_added_tokens=True) == NEEDED + 3
    assert trimmed.encode("jade ticketid").tokens == ["[CLS]", "jade", "ticketid", "[SEP]"]
