"""Outlier sets as `oodscore-train outliers` writes them: a folder with card, inputs, preview."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from service.bundle import ImageInput
from training.data.image_set import ImageSet
from training.data.input_set import DataError, DataUnavailable
from training.data.raw_texts import RawTexts

CARD, IMAGES, TEXTS = "set.json", "outliers.npz", "outliers.jsonl.gz"


class Card(BaseModel):
    """set.json: what made the set.  `spread`: the standard deviation of the latents, or the
    temperature; `measured`: what its automatic choice saw, spread by spread."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    generator: str
    spread: float
    count: int
    seed: int
    trained_on: str  # fingerprint of train-ID
    run: str  # name of the run config
    options: dict[str, Any]
    measured: dict[str, float] = {}
    file: str
    sha256: str


def read_card(name: str, folder: Path) -> Card:
    """DataUnavailable where there is no such set, DataError where its file is another one."""
    try:
        card = Card.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    except OSError as exc:
        raise DataUnavailable(
            f"{name}: no outlier set in {folder}; write one with oodscore-train outliers"
        ) from exc
    except ValidationError as exc:
        raise DataError(f"{name}: {folder / CARD} is no card of an outlier set ({exc})") from exc
    file = folder / card.file
    if card.file not in (IMAGES, TEXTS) or not file.is_file():
        raise DataError(f"{name}: {folder} has no {card.file}")
    if hashlib.sha256(file.read_bytes()).hexdigest() != card.sha256:
        raise DataError(f"{name}: {file} is not what {CARD} describes; write the set again")
    return card


def read_generated_images(name: str, spec: ImageInput, *, path: str) -> ImageSet:
    """Images of a written set."""
    card = read_card(name, Path(path))
    if card.file != IMAGES:
        raise DataError(f"{name}: {path} is an outlier set of texts")
    with np.load(Path(path) / IMAGES, allow_pickle=False) as archive:
        images = archive["images"]
    return ImageSet(name, images, np.full(len(images), -1), (), _origin(card)).sized_for(spec)


def read_generated_texts(name: str, *, path: str) -> RawTexts:
    """Texts of a written set."""
    card = read_card(name, Path(path))
    if card.file != TEXTS:
        raise DataError(f"{name}: {path} is an outlier set of images")
    lines = gzip.decompress((Path(path) / TEXTS).read_bytes()).decode().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    return RawTexts.named(name, texts, [None] * len(texts), _origin(card))


def _origin(card: Card) -> str:
    return f"{card.generator} trained on {card.run}, spread {card.spread:g}, seed {card.seed}"
