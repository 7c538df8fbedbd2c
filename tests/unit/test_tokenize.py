"""Text to ids: truncation, padding, reserved ids, what is refused."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from service.bundle import BundleCorrupt, TextEncoder, TextInput, TextUnusable, pad_tokens
from service.bundle.tokenize import CHARACTERS_PER_TOKEN

WORDS = ["[PAD]", "[UNK]", "[CLS]", "where", "is", "my", "card", "straße"]


def spec(**changes) -> TextInput:
    fields = {
        "tokenizer": "tokenizer.json",
        "max_tokens": 6,
        "vocabulary_size": len(WORDS),
        "pad_id": 0,
        "unknown_id": 1,
    }
    return TextInput(**(fields | changes))


def tokenizer() -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]"])
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    return made


def test_words_become_ids_after_the_special_token():
    assert TextEncoder(tokenizer(), spec()).encode("Where IS my card").tolist() == [2, 3, 4, 5, 6]


def test_the_first_tokens_stay_specials_counted_in():
    ids = TextEncoder(tokenizer(), spec(max_tokens=4)).encode("where is my card")
    assert ids.tolist() == [2, 3, 4, 5]


def test_composed_and_decomposed_letters_are_one_word():
    encoder = TextEncoder(tokenizer(), spec())
    assert encoder.encode("STRASSE").tolist() == [2, 1]
    assert encoder.encode("straße").tolist() == [2, 7]


def test_unknown_words_are_the_unknown_id():
    assert TextEncoder(tokenizer(), spec()).encode("où 行く").tolist() == [2, 1, 1]


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u3000"])
def test_a_text_without_a_token_is_refused(text):
    with pytest.raises(TextUnusable, match="empty"):
        TextEncoder(tokenizer(), spec()).encode(text)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TextUnusable, match="character 3"):
        TextEncoder(tokenizer(), spec()).encode("my \ud83d card")


def test_a_text_cannot_spell_a_reserved_token():
    ids = TextEncoder(tokenizer(), spec()).encode("my [PAD] card")
    assert 0 not in ids.tolist()


def test_control_characters_and_a_megabyte_give_at_most_max_tokens():
    encoder = TextEncoder(tokenizer(), spec())
    assert encoder.encode("\x00\x01 card").tolist()[-1] == 6
    assert len(encoder.encode("card " * 200_000)) == 6


def test_a_batch_is_padded_on_the_right_with_the_reserved_id():
    batch = TextEncoder(tokenizer(), spec()).encode_all(["my card", "is"])
    np.testing.assert_array_equal(batch, [[2, 5, 6], [2, 4, 0]])
    with pytest.raises(TextUnusable, match="text 1"):
        TextEncoder(tokenizer(), spec()).encode_all(["my", ""])


def test_padding_keeps_rows():
    rows = [np.array([5]), np.array([6, 7, 8])]
    np.testing.assert_array_equal(pad_tokens(rows, 0), [[5, 0, 0], [6, 7, 8]])


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer().save(str(path))
    assert TextEncoder.load(path, spec()).encode("my").tolist() == [2, 5]
    with pytest.raises(BundleCorrupt, match="8 ids, expected 9"):
        TextEncoder.load(path, spec(vocabulary_size=9))
    path.write_text("{}")
    with pytest.raises(BundleCorrupt, match="not the bundle's tokenizer"):
        TextEncoder.load(path, spec())


def test_reserved_ids_differ_and_lie_in_the_vocabulary():
    with pytest.raises(ValueError, match="both 1"):
        spec(pad_id=1)
    with pytest.raises(ValueError, match=r"0\.\.7"):
        spec(unknown_id=8)


def test_a_text_that_goes_on_is_told():
    encoder = TextEncoder(tokenizer(), spec(max_tokens=4))
    assert not encoder.tokens("where is my").truncated
    assert encoder.tokens("where is my card").truncated
    assert encoder.tokens("where is my card").ids.tolist() == [2, 3, 4, 5]


def test_no_more_of_a_text_is_read_than_its_tokens_can_hold():
    encoder = TextEncoder(tokenizer(), spec())
    read = 6 * CHARACTERS_PER_TOKEN
    assert not encoder.tokens("my card" + " " * (read - 7)).truncated
    cut = encoder.tokens("my card" + " " * read)
    assert (cut.ids.tolist(), cut.truncated) == ([2, 5, 6], True)
    with pytest.raises(TextUnusable, match=f"in its first {read} characters"):
        encoder.tokens(" " * read + "card")


def test_other_threads_run_while_a_text_is_tokenized():
    """The longest pause of this thread is far shorter than the tokenizing."""
    encoder = TextEncoder(tokenizer(), spec(max_tokens=4096))
    text = "card," * (4096 * CHARACTERS_PER_TOKEN // 5)
    seconds: list[float] = []

    def encode():
        started = time.perf_counter()
        encoder.tokens(text)
        seconds.append(time.perf_counter() - started)

    thread = threading.Thread(target=encode)
    pauses = [0.0]
    last = time.perf_counter()
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        pauses.append(now - last)
        last = now
    assert seconds[0] > 0.05  # long enough to tell
    assert max(pauses) < 0.5 * seconds[0]


def test_special_tokens_leave_room_for_one_of_the_text():
    assert TextEncoder(tokenizer(), spec(max_tokens=2)).encode("my card").tolist() == [2, 5]
    with pytest.raises(ValueError, match="1 special tokens leave no room in max_tokens 1"):
        TextEncoder(tokenizer(), spec(max_tokens=1))


def test_tokenizing_starts_no_threads_and_knows_no_hub():
    """In a process of its own, as the service starts."""
    code = (
        "import os, sys, service.bundle as b\n"
        "from tokenizers import Tokenizer, models\n"
        "t = Tokenizer(models.WordLevel({'[P]': 0, '[U]': 1, 'a': 2}, unk_token='[U]'))\n"
        "s = b.TextInput(tokenizer='tokenizer.json', max_tokens=4, vocabulary_size=3, pad_id=0,"
        " unknown_id=1)\n"
        "b.TextEncoder(t, s).encode('a')\n"
        "print(os.environ['TOKENIZERS_PARALLELISM'], len(os.listdir('/proc/self/task')),"
        " 'huggingface_hub' in sys.modules)\n"
        "os.fork() or os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.stdout.splitlines()[0] == "false 1 False"
    assert done.stderr == ""


def test_a_text_cannot_spell_padding_whatever_the_model():
    """A model whose own vocabulary holds the padding token, and splits no punctuation off."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2}, unk_token="<unk>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoder = TextEncoder(words, spec(vocabulary_size=3, pad_id=0, unknown_id=1))
    assert encoder.encode("a <pad> a").tolist() == [2, 1, 2]


def test_a_text_that_the_tokenizer_refuses_is_unusable():
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="<none>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoder = TextEncoder(words, spec(vocabulary_size=3, pad_id=0, unknown_id=1))
    assert encoder.encode("a").tolist() == [2]
    with pytest.raises(TextUnusable, match="the tokenizer refuses the text"):
        encoder.encode("b")
