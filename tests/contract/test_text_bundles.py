"""A text bundle whose files do not belong together is not opened."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_text_bundle import (
    PASSES,
    TOKENIZER,
    forward_nodes,
    forward_outputs,
    publish_tiny_text_bundle,
    tokenizer,
    write_text_graph,
)
from tokenizers import normalizers

from service.bundle import (
    FORWARD,
    GOLDEN,
    BundleCorrupt,
    BundleError,
    BundleRef,
    Golden,
    GoldenMismatch,
    TextUnusable,
    read_golden,
    read_manifest,
    sha256_of,
    write_golden,
    write_manifest,
)
from service.graphs import SessionOptions
from service.loading import check_every_graph, open_bundle

OPTIONS = SessionOptions("cpu", 1)


@pytest.fixture
def bundle(tmp_path: Path) -> BundleRef:
    return publish_tiny_text_bundle(tmp_path, "words", "1")


def sign(bundle: BundleRef) -> None:
    """Digests and seal fit again: only reading and running can tell."""
    manifest = read_manifest(bundle.path)
    files = {name: sha256_of(bundle.path / name) for name in manifest.files}
    write_manifest(bundle.path, manifest.model_copy(update={"files": files}))


def test_a_good_one_is_opened_with_its_tokenizer(bundle: BundleRef) -> None:
    check_every_graph(bundle, OPTIONS)
    encoder = open_bundle(bundle, OPTIONS).encoder
    assert encoder is not None
    assert len(encoder.encode("what is my card")) == 4


def test_what_a_tokenizer_drops_leaves_an_empty_text(bundle: BundleRef) -> None:
    """BERT's normalizer keeps no control character; the tiny tokenizer's own keeps all."""
    encoder = open_bundle(bundle, OPTIONS).encoder
    assert encoder is not None
    assert len(encoder.encode("\x00\x07")) == 1
    cleaning = tokenizer()
    cleaning.normalizer = normalizers.BertNormalizer()
    cleaning.save(str(bundle.path / TOKENIZER))
    sign(bundle)
    encoder = open_bundle(bundle, OPTIONS).encoder
    assert encoder is not None
    assert len(encoder.encode("card\x00\x07")) == 1
    with pytest.raises(TextUnusable, match="the text is empty"):
        encoder.encode("\x00\x07")


def fixed_length(bundle: BundleRef) -> None:
    write_text_graph(bundle.path / FORWARD, forward_nodes(), forward_outputs(), ("N", 12))


def fixed_batch(bundle: BundleRef) -> None:
    write_text_graph(bundle.path / FORWARD, forward_nodes(), forward_outputs(), (1, "L"))


def other_vocabulary(bundle: BundleRef) -> None:
    path = bundle.path / TOKENIZER
    document = json.loads(path.read_text())
    document["model"]["vocab"]["more"] = len(document["model"]["vocab"])
    path.write_text(json.dumps(document))


def swapped_words(bundle: BundleRef) -> None:
    path = bundle.path / TOKENIZER
    path.write_text(path.read_text().replace('"rain"', '"x"').replace('"pin"', '"rain"'))


def golden_of(*texts: str) -> Callable[[BundleRef], None]:
    def spoil(bundle: BundleRef) -> None:
        outputs = read_golden(bundle.path, read_manifest(bundle.path)).outputs
        kept = {name: values[: len(texts)] for name, values in outputs.items()}
        write_golden(bundle.path, Golden(np.array(texts), kept))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "file", "says"),
    [
        (fixed_length, FORWARD, r"expected tensor\(int64\) \(N, L\) with a free batch size N and"),
        (fixed_batch, FORWARD, "with a free batch size N and length L"),
        (other_vocabulary, TOKENIZER, "27 ids, expected 26"),
        (golden_of("my card", " "), GOLDEN, "text 1: the text is empty"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_files_that_cannot_work_are_named(
    bundle: BundleRef, spoil: Callable[[BundleRef], None], file: str, says: str
) -> None:
    spoil(bundle)
    sign(bundle)
    with pytest.raises(BundleCorrupt, match=says) as caught:
        open_bundle(bundle, OPTIONS)
    assert caught.value.path == bundle.path / file


@pytest.mark.parametrize("spoil", [swapped_words, golden_of("pin pin visa")])
def test_other_words_do_not_reproduce_the_golden_outputs(
    bundle: BundleRef, spoil: Callable[[BundleRef], None]
) -> None:
    spoil(bundle)
    sign(bundle)
    with pytest.raises(GoldenMismatch):
        open_bundle(bundle, OPTIONS)


def test_a_graph_on_demand_is_held_to_the_same(bundle: BundleRef) -> None:
    write_text_graph(bundle.path / PASSES, forward_nodes(), forward_outputs())
    sign(bundle)
    open_bundle(bundle, OPTIONS)
    with pytest.raises(BundleError, match="has no output 'score/mc_dropout'"):
        check_every_graph(bundle, OPTIONS)
