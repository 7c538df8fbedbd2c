"""Outliers to train on: read, drawn, and held apart from everything that is reported."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import pad_tokens
from training.config import OutliersConfig
from training.data.image_set import ImageSet
from training.data.input_set import DataError, InputSet
from training.data.text_set import TextSet

_DRAW_STREAM = 2  # its own random stream, apart from the split and from weights


def drawn(sets: Mapping[str, InputSet], config: OutliersConfig, seed: int) -> InputSet:
    """All sets as one, or `config.count` inputs of them, the same number of each but for a rest.

    DataError where a set has too few.
    """
    parts = list(sets.values())
    if config.count is not None:
        rng = np.random.default_rng([seed, _DRAW_STREAM])
        share, rest = divmod(config.count, len(parts))
        parts = [
            _some(part, share + (position < rest), config.count, rng)
            for position, part in enumerate(parts)
        ]
    return joined(parts)


def _some(part: InputSet, count: int, of: int, rng: np.random.Generator) -> InputSet:
    if len(part) < count:
        raise DataError(
            f"outliers: count = {of} asks for {count} {part.kind} of {part.name}, which has "
            f"{len(part)}; ask for fewer"
        )
    return part.take(np.sort(rng.permutation(len(part))[:count]), part.name)


def joined(parts: list[InputSet]) -> InputSet:
    """One unlabelled set of several of the same kind."""
    first = parts[0]
    changes: dict[str, Any] = {
        "name": "outliers",
        "labels": np.full(sum(map(len, parts)), -1, np.int64),
        "class_names": (),
        "origin": "; ".join(
            f"{len(part)} of {part.name} ({part.origin})" if part.origin else part.name
            for part in parts
        ),
    }
    if isinstance(first, TextSet):
        changes["texts"] = tuple(text for part in parts for text in _texts(part))
        rows = [row for part in parts for row in _rows(part)]
        return replace(first, inputs=pad_tokens(rows, first.pad_id), **changes)
    if isinstance(first, ImageSet):
        changes["files"] = ()
    return replace(first, inputs=np.concatenate([part.inputs for part in parts]), **changes)


def _texts(part: InputSet) -> tuple[str, ...]:
    assert isinstance(part, TextSet)  # noqa: S101
    return part.texts


def _rows(part: InputSet) -> Iterator[NDArray[np.int64]]:
    """Token ids without their padding."""
    assert isinstance(part, TextSet)  # noqa: S101
    return (row[:length] for row, length in zip(part.inputs, part.lengths(), strict=True))


def refuse_shared(outliers: InputSet, others: Mapping[str, InputSet]) -> None:
    """DataError where an outlier also stands in one of the other sets: what is trained on is not
    reported, and ID is no outlier."""
    known = set(_digests(outliers))
    for name, other in others.items():
        shared = sum(digest in known for digest in _digests(other))
        if shared:
            raise DataError(
                f"outliers: {shared} {other.kind} of {name} also stand in the training outliers "
                f"({outliers.origin}); a set that is trained on measures nothing. Take other "
                "outliers, or leave that set out"
            )


def _digests(data: InputSet) -> Iterator[bytes]:
    """Of an image its pixels, of a text its characters: tokens alone make many texts alike."""
    texts = (text.encode() for text in data.texts) if isinstance(data, TextSet) else data.contents()
    return (hashlib.blake2b(content, digest_size=16).digest() for content in texts)
