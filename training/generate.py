"""Train a generator on train-ID, choose how far it strays, write an outlier set."""

import gzip
import hashlib
import html
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.bundle import TextInput
from training.config import RunConfig
from training.data import ImageSet, Roles, TextSet, load_roles
from training.data.generated import CARD, IMAGES, TEXTS, Card
from training.generators import (
    IMAGE_GENERATORS,
    TEXT_GENERATORS,
    ImageGenerator,
    Judge,
    LanguageModel,
    choose_spread,
    nearest_image_judge,
    share_accepted,
)
from training.optimise import CheckpointMismatch
from training.progress import say, track

# standard deviations of latents, 1 in training; temperatures
IMAGE_SPREADS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0)
TEXT_SPREADS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
_IMAGE_BATCH, _TEXT_BATCH = 64, 20
_JUDGED = 500  # generated inputs a spread
_SHEET = 10  # images along a side of the contact sheet
_PAGE = 60  # texts on the page
_ENLARGED = 3


@dataclass(frozen=True)
class Order:
    """What to make.  `spread`: None chooses it; `target`: the share of outliers that may pass for
    the generator's own ID then; `tokens`: of each text; `seed`: of the generator, and of the split
    whose train-ID it imitates: with another one it would learn held-out ID."""

    generator: str
    count: int = 10_000
    spread: float | None = None
    epochs: int = 10
    seed: int = 0
    target: float = 0.05
    tokens: int = 20
    options: Mapping[str, Any] | None = None

    def check(self, modality: str) -> None:
        registry = TEXT_GENERATORS if modality == "text" else IMAGE_GENERATORS
        if self.generator not in registry:
            raise ValueError(
                f"no generator {self.generator!r} of {modality}s; choose of {sorted(registry)}"
            )
        if min(self.count, self.epochs) < 1:
            raise ValueError(f"count {self.count}, epochs {self.epochs}; at least 1 is needed")
        if self.spread is not None and not 0 < self.spread < math.inf:
            raise ValueError(f"spread is {self.spread}; it must be positive and finite")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")
        if not 0 < self.target < 1:
            raise ValueError(f"target is {self.target}; it must lie between 0 and 1")


def write_outliers(config: RunConfig, order: Order, out: Path, runs: Path) -> Path:
    """A set of outliers like train-ID of that run -> its folder, which must not exist yet.

    Training goes on where an earlier call was cut off.  No OOD set is read.
    """
    order.check(config.modality)
    if out.exists():
        raise ValueError(f"{out} exists; remove it or choose another folder")
    checkpoint = runs / f"{config.name}-{order.generator}-seed{order.seed}" / "generator.pt"
    for folder in (out.parent, checkpoint.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ValueError(f"no folder {folder} can be made ({exc}); choose another") from exc
    data = config.data.model_copy(update={"test_ood": {}, "proxy_ood": ()})
    roles = load_roles(data, config.form, order.seed)
    make = _texts if isinstance(roles.train_id, TextSet) else _images
    with torch.random.fork_rng():
        torch.manual_seed(order.seed)
        sample, judge, write = make(roles, order, checkpoint)
    measured: dict[float, float] = {}
    spread = order.spread
    if spread is None:
        reference = sample(_JUDGED, 1.0, order.seed + 2)
        spreads = TEXT_SPREADS if config.modality == "text" else IMAGE_SPREADS
        for candidate in track(spreads, "choosing the spread"):
            made = sample(_JUDGED, candidate, order.seed + 1)
            measured[candidate] = share_accepted(judge, reference, made)
            say(f"spread {candidate:g}: {measured[candidate]:.1%} could be of spread 1")
        spread = choose_spread(measured, order.target)
        say(f"chosen: {spread:g}")
    temporary = out.parent / f".tmp-{out.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    file = write(sample(order.count, spread, order.seed), temporary)
    card = Card(
        generator=order.generator,
        spread=spread,
        count=order.count,
        seed=order.seed,
        trained_on=roles.train_id.fingerprint(),
        run=config.name,
        options=dict(order.options or {}) | {"epochs": order.epochs},
        measured={f"{candidate:g}": share for candidate, share in measured.items()},
        file=file,
        sha256=hashlib.sha256((temporary / file).read_bytes()).hexdigest(),
    )
    (temporary / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, out)
    return out


Sample = Callable[[int, float, int], Tensor]
Write = Callable[[Tensor, Path], str]
_Maker = tuple[Sample, Judge, Write]


def _images(roles: Roles, order: Order, checkpoint: Path) -> _Maker:
    train = roles.train_id
    assert isinstance(train, ImageSet)  # noqa: S101
    _, height, width, channels = train.inputs.shape
    model = IMAGE_GENERATORS[order.generator](
        channels, height, width, len(train.class_names), **(order.options or {})
    )
    labels = torch.from_numpy(train.labels)

    def epoch(number: int) -> dict[str, float]:
        losses: dict[str, float] = {}
        batches = torch.randperm(len(train)).split(_IMAGE_BATCH)
        for batch in track(batches, f"{order.generator}, epoch {number + 1}/{order.epochs}"):
            if len(batch) < 2:
                continue  # batch statistics need two
            pixels = torch.from_numpy(train.batch(batch.numpy()))
            images = pixels.permute(0, 3, 1, 2).float() / 255
            found = model.to(_device()).step(images.to(_device()), labels[batch].to(_device()))
            for name, value in found.items():
                losses[name] = losses.get(name, 0.0) + value * len(batch) / len(train)
        return losses

    _train(model, epoch, order, train.fingerprint(), checkpoint)
    return model.sample, nearest_image_judge(train.inputs), _write_images


def _texts(roles: Roles, order: Order, checkpoint: Path) -> _Maker:
    train = roles.train_id
    spec, tokenizer = roles.spec, roles.tokenizer
    assert isinstance(train, TextSet)  # noqa: S101
    assert isinstance(spec, TextInput) and tokenizer is not None  # noqa: S101, PT018
    model = TEXT_GENERATORS[order.generator](spec.vocabulary_size, **(order.options or {}))
    if not 1 < order.tokens <= model.window:
        raise ValueError(
            f"tokens is {order.tokens}; the language model makes texts of 2 to {model.window}"
        )
    stream = torch.from_numpy(train.inputs[train.inputs != train.pad_id])
    length = model.window + 1
    if len(stream) < 2 * length:
        raise ValueError(f"train-ID has {len(stream)} tokens; at least {2 * length} are needed")

    def epoch(number: int) -> dict[str, float]:
        losses: dict[str, float] = {}
        offset = int(torch.randint(0, length, ()))
        pieces = stream[offset : offset + (len(stream) - offset) // length * length]
        pieces = pieces.view(-1, length)
        batches = torch.randperm(len(pieces)).split(_TEXT_BATCH)
        for batch in track(batches, f"language model, epoch {number + 1}/{order.epochs}"):
            for name, value in model.to(_device()).step(pieces[batch].to(_device())).items():
                losses[name] = losses.get(name, 0.0) + value * len(batch) / len(pieces)
        return losses

    _train(model, epoch, order, train.fingerprint(), checkpoint)
    special = (
        index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special
    )
    never = tuple(sorted({spec.pad_id, spec.unknown_id, *special}))

    def sample(count: int, temperature: float, seed: int) -> Tensor:
        return model.sample(count, temperature, seed, order.tokens, never)

    def judge(tokens: Tensor) -> NDArray[np.float64]:
        return model.surprise(tokens.to(_device())).cpu().double().numpy()

    def write(tokens: Tensor, folder: Path) -> str:
        return _write_texts([tokenizer.decode(row) for row in tokens.tolist()], folder)

    return sample, judge, write


def _train(
    model: ImageGenerator | LanguageModel,
    epoch: Callable[[int], dict[str, float]],
    order: Order,
    fingerprint: str,
    checkpoint: Path,
) -> None:
    """All epochs, each seeded by its number; continues a checkpoint of the same generator."""
    identity = json.dumps([order.generator, dict(order.options or {}), order.seed, fingerprint])
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["identity"] != identity:
            raise CheckpointMismatch(
                f"{checkpoint} belongs to another generator, seed or data set; remove it or choose "
                "another run folder"
            )
        model.load_state_dict(state["model"])
        for name, optimiser in model.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        done = int(state["epochs"])
        if done > order.epochs:
            raise CheckpointMismatch(
                f"{checkpoint} was trained for {done} epochs, {order.epochs} are asked for; ask "
                f"for {done} or more, remove it, or choose another run folder"
            )
        say(f"resuming {checkpoint} after epoch {done}")
    for number in range(done, order.epochs):
        torch.manual_seed(int(np.random.SeedSequence([order.seed, number]).generate_state(1)[0]))
        losses = epoch(number)
        if not all(np.isfinite(value) for value in losses.values()):
            raise FloatingPointError(f"epoch {number + 1} of the generator diverged: {losses}")
        line = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        say(f"epoch {number + 1}/{order.epochs}: {line}")
        temporary = checkpoint.with_suffix(".tmp")
        torch.save(
            {
                "identity": identity,
                "model": model.state_dict(),
                "optimisers": {n: o.state_dict() for n, o in model.optimisers.items()},
                "epochs": number + 1,
            },
            temporary,
        )
        os.replace(temporary, checkpoint)
    model.eval()


def _write_images(images: Tensor, folder: Path) -> str:
    """The set, and a contact sheet of its first images."""
    values = images.numpy()
    np.savez_compressed(folder / IMAGES, images=values)
    _, height, width, channels = values.shape
    sheet = np.zeros((_SHEET, height, _SHEET, width, channels), np.uint8)
    for place, image in enumerate(values[: _SHEET**2]):
        sheet[place // _SHEET, :, place % _SHEET] = image
    whole = sheet.reshape(_SHEET * height, _SHEET * width, channels)
    picture = Image.fromarray(whole[:, :, 0] if channels == 1 else whole)
    size = (_SHEET * width * _ENLARGED, _SHEET * height * _ENLARGED)
    picture.resize(size, Image.Resampling.NEAREST).save(folder / "preview.png")
    return IMAGES


def _write_texts(texts: list[str], folder: Path) -> str:
    """The set, and a page with its first texts."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / TEXTS).write_bytes(gzip.compress(lines.encode(), mtime=0))
    items = "".join(f"<li>{html.escape(text)}</li>\n" for text in texts[:_PAGE])
    (folder / "preview.html").write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Generated outliers</title>\n"
        f"<h1>The first {min(_PAGE, len(texts))} of {len(texts)} generated texts</h1>\n"
        f"<ol>\n{items}</ol>\n",
        encoding="utf-8",
    )
    return TEXTS


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
