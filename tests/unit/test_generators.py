"""Generators of outliers: what they learn, how they stray, what is written and read again."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from toy import SPEC, write_digits

from training.config import RunConfig
from training.data import DataError, DataUnavailable
from training.data.generated import read_card, read_generated_images, read_generated_texts
from training.data.roles import load_roles
from training.generate import Order, write_outliers
from training.generators import (
    IMAGE_GENERATORS,
    LanguageModel,
    choose_spread,
    nearest_image_judge,
    share_accepted,
)
from training.generators.decoder import ClassNorm
from training.optimise import CheckpointMismatch

SMALL = {"maps": 4, "latent": 8}


def image_config(folder: Path) -> RunConfig:
    write_digits(folder)
    return RunConfig.model_validate(
        {
            "name": "digits",
            "description": "digits",
            "backbone": "lenet",
            "primary": "msp",
            "input": SPEC.model_dump(),
            "optimiser": {"name": "adam", "lr": 0.001, "epochs": 1, "batch_size": 50},
            "data": {
                "train": [{"source": "npz", "path": str(folder / "train.npz")}],
                "test": [{"source": "npz", "path": str(folder / "test.npz")}],
                "dev_count": 100,
                "cal_count": 100,
                "test_ood": {"absent": [{"source": "npz", "path": "/nowhere.npz"}]},
            },
            "detectors": [{"name": "msp"}],
        }
    )


def text_config(folder: Path) -> RunConfig:
    rng = np.random.default_rng(0)
    for name, count in (("train", 400), ("test", 30)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(count):
                start = int(rng.integers(0, 20))
                words = [f"w{(start + j) % 20}" for j in range(12)]  # each word says the next
                file.write(json.dumps({"text": " ".join(words), "label": f"c{i % 2}"}) + "\n")
    return RunConfig.model_validate(
        {
            "name": "counting",
            "description": "words in their order",
            "modality": "text",
            "backbone": "gru",
            "primary": "msp",
            "text": {"max_tokens": 12, "tokenizer": {"kind": "word"}, "duplicates": "keep"},
            "optimiser": {"name": "adam", "lr": 0.001, "epochs": 1, "batch_size": 50},
            "data": {
                "train": [{"source": "jsonl", "path": str(folder / "train.jsonl")}],
                "test": [{"source": "jsonl", "path": str(folder / "test.jsonl")}],
                "dev_count": 60,
                "cal_count": 60,
                "test_ood": {},
            },
            "detectors": [{"name": "msp"}],
        }
    )


@pytest.mark.parametrize("name", sorted(IMAGE_GENERATORS))
def test_a_set_is_written_read_and_the_same_again(name: str, tmp_path: Path) -> None:
    config = image_config(tmp_path)
    order = Order(name, count=120, spread=2.0, epochs=2, options=SMALL)
    out = write_outliers(config, order, tmp_path / "set", tmp_path / "runs")
    found = read_generated_images("made", SPEC, path=str(out))
    assert found.inputs.shape == (120, 28, 28, 1)
    assert (found.labels == -1).all()
    assert "spread 2" in found.origin
    with Image.open(out / "preview.png") as preview:
        assert preview.size == (840, 840)
    again = write_outliers(config, order, tmp_path / "again", tmp_path / "other_runs")
    assert read_card("a", again).sha256 == read_card("b", out).sha256
    with pytest.raises(ValueError, match="exists; remove it"):
        write_outliers(config, order, out, tmp_path / "runs")
    other = Order(name, count=10, spread=2.0, epochs=2, options={"maps": 6, "latent": 8})
    with pytest.raises(CheckpointMismatch):
        write_outliers(config, other, tmp_path / "third", tmp_path / "runs")


def test_a_generator_is_trained_on_the_split_of_its_seed(tmp_path: Path) -> None:
    """Of the config's own, held-out ID of another seed would be among what it imitates."""
    config = image_config(tmp_path)
    splits = []
    for seed in (0, 1):
        order = Order("vae", count=10, spread=1.0, epochs=1, seed=seed, options=SMALL)
        out = write_outliers(config, order, tmp_path / f"{seed}", tmp_path / "runs")
        roles = load_roles(config.data, config.form, seed)
        assert read_card("x", out).trained_on == roles.train_id.fingerprint()
        splits.append(read_card("x", out).trained_on)
    assert splits[0] != splits[1]


def test_a_cut_training_goes_on_to_the_same_set(tmp_path: Path) -> None:
    config = image_config(tmp_path)

    def made(epochs: int, folder: str, runs: str) -> str:
        order = Order("vae", count=40, spread=1.0, epochs=epochs, options=SMALL)
        out = write_outliers(config, order, tmp_path / folder, tmp_path / runs)
        return read_card("x", out).sha256

    whole = made(3, "whole", "a")
    made(1, "part", "b")
    assert made(3, "resumed", "b") == whole
    with pytest.raises(CheckpointMismatch, match="trained for 3 epochs, 2 are asked for"):
        made(2, "shorter", "b")


def test_images_stray_as_their_latents_spread_and_the_choice_follows(tmp_path: Path) -> None:
    config = image_config(tmp_path)
    order = Order("vae", count=50, epochs=6, target=0.2, options={"maps": 8, "latent": 8})
    card = read_card("x", write_outliers(config, order, tmp_path / "set", tmp_path / "runs"))
    shares = {float(spread): share for spread, share in card.measured.items()}
    assert shares[1.0] > shares[12.0]
    assert card.spread == choose_spread(shares, 0.2)


def test_texts_are_learnt_and_stray_with_the_temperature(tmp_path: Path) -> None:
    config = text_config(tmp_path)
    order = Order(
        "transformer",
        count=60,
        epochs=6,
        tokens=8,
        options={"width": 32, "window": 11, "dropout": 0.0, "lr": 0.01},
    )
    out = write_outliers(config, order, tmp_path / "set", tmp_path / "runs")
    card = read_card("x", out)
    assert card.measured["0.5"] > 0.5 > card.measured["5"]
    assert card.spread == choose_spread({float(k): v for k, v in card.measured.items()}, 0.05)
    found = read_generated_texts("made", path=str(out))
    assert len(found) == 60
    assert all(len(text.split()) == 8 for text in found.texts)
    assert "<" not in " ".join(found.texts), "neither padding nor unknown"
    assert "<li>w" in (out / "preview.html").read_text()
    with pytest.raises(DataError, match="is an outlier set of texts"):
        read_generated_images("made", SPEC, path=str(out))


def test_texts_too_long_for_the_model_are_refused_before_it_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokens is 36; the language model makes texts of 2 to 35"):
        write_outliers(
            text_config(tmp_path), Order("transformer", tokens=36), tmp_path / "set", tmp_path
        )
    assert not list(tmp_path.rglob("generator.pt"))


def test_pieces_of_words_become_words_and_no_special_token_is_drawn(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(10)), "##0", "##1"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:4])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = text_config(tmp_path)
    text = {"max_tokens": 12, "duplicates": "keep"}
    text["tokenizer"] = {"kind": "file", "path": str(tmp_path / "tokenizer.json")}
    config = RunConfig.model_validate(config.model_dump(exclude_defaults=True) | {"text": text})
    options = {"width": 16, "window": 11}
    order = Order("transformer", count=80, spread=3.0, epochs=1, tokens=8, options=options)
    out = write_outliers(config, order, tmp_path / "set", tmp_path / "runs")
    texts = read_generated_texts("made", path=str(out)).texts
    assert any(len(word) > 2 for text in texts for word in text.split()), "pieces are joined"
    assert not any("[" in text or "#" in text.lstrip("#") for text in texts)


def test_the_choice_is_the_smallest_spread_from_which_on_few_pass() -> None:
    assert choose_spread({1.0: 0.9, 2.0: 0.3, 3.0: 0.04, 5.0: 0.0}, 0.05) == 3.0
    assert choose_spread({1.0: 0.01, 2.0: 0.3, 3.0: 0.04}, 0.05) == 3.0, "no lucky small one"
    assert choose_spread({1.0: 0.9, 2.0: 0.8}, 0.05) == 2.0


def test_the_judge_accepts_id_and_refuses_noise() -> None:
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 200, (1, 12, 12, 1))
    near = np.clip(pattern + rng.normal(0, 15, (400, 12, 12, 1)), 0, 255).astype(np.uint8)
    judge = nearest_image_judge(near[:200])
    held_out, others = torch.from_numpy(near[200:300]), torch.from_numpy(near[300:])
    assert share_accepted(judge, held_out, others) > 0.85
    noise = torch.from_numpy(rng.integers(0, 256, (100, 12, 12, 1), dtype=np.uint8))
    assert share_accepted(judge, held_out, noise) == 0


def test_the_language_model_sees_no_later_token() -> None:
    torch.manual_seed(0)
    model = LanguageModel(30, width=16, dropout=0.0, window=10).eval()
    tokens = torch.randint(0, 30, (3, 8))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 30
    torch.testing.assert_close(model(tokens)[:, :5], model(changed)[:, :5])
    assert (model(tokens)[:, 5:] != model(changed)[:, 5:]).any()
    logits = model(tokens)[:, :-1].log_softmax(2)
    expected = -logits.gather(2, tokens[:, 1:, None])[..., 0].mean(1)
    torch.testing.assert_close(model.surprise(tokens), expected)


def test_a_low_temperature_takes_the_likeliest_word_and_never_a_barred_one() -> None:
    torch.manual_seed(0)
    model = LanguageModel(30, width=16, window=10).eval()
    found = model.sample(40, 1e-3, seed=1, tokens=6, never=(0, 1))
    assert found.shape == (40, 6)
    assert found.min() >= 2
    logits = model(found[:, :-1])
    logits[:, :, :2] = -torch.inf
    assert (logits.argmax(2) == found[:, 1:]).all()
    hot = model.sample(400, 50.0, seed=1, tokens=6, never=(0, 1))
    assert len(hot.unique()) == 28


def test_class_norm_is_batch_norm_with_a_gain_of_each_class() -> None:
    torch.manual_seed(0)
    norm = ClassNorm(3, 2)
    norm.gain.weight.data[1] = 5.0
    values, labels = torch.randn(8, 3, 4, 4), torch.tensor([0, 1] * 4)
    found = norm(values, labels)
    plain = torch.nn.functional.batch_norm(values, None, None, training=True)
    torch.testing.assert_close(found[labels == 0], plain[labels == 0])
    torch.testing.assert_close(found[labels == 1], 5 * plain[labels == 1])


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (Order("transformer"), "no generator 'transformer' of images; choose of"),
        (Order("vae", count=0), "at least 1"),
        (Order("vae", spread=0.0), "must be positive"),
        (Order("vae", spread=float("nan")), "positive and finite"),
        (Order("vae", seed=-1), "seed is -1"),
        (Order("vae", target=1.0), "between 0 and 1"),
    ],
)
def test_impossible_orders_are_refused(order: Order, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason):
        write_outliers(image_config(tmp_path), order, tmp_path / "set", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_said_before_the_training(tmp_path: Path) -> None:
    config, order = image_config(tmp_path), Order("vae", count=10, spread=1.0, epochs=1)
    (tmp_path / "file").touch()
    for out, runs in (("file/set", "runs"), ("set", "file/runs")):
        with pytest.raises(ValueError, match=r"file.* can be made .*choose another"):
            write_outliers(config, order, tmp_path / out, tmp_path / runs)


def test_a_changed_or_absent_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="write one with oodscore-train outliers"):
        read_generated_images("made", SPEC, path=str(tmp_path / "none"))
    order = Order("vae", count=10, spread=1.0, epochs=1, options=SMALL)
    out = write_outliers(image_config(tmp_path), order, tmp_path / "set", tmp_path / "runs")
    np.savez(out / "outliers.npz", images=np.zeros((10, 28, 28, 1), np.uint8))
    with pytest.raises(DataError, match="is not what set"):
        read_generated_images("made", SPEC, path=str(out))
