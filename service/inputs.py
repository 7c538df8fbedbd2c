"""What a request body holds, once taken apart: inputs in their order, and what was asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle import Modality
from service.errors import InputRejected, MixedModalities, TextTooLong


@dataclass(frozen=True)
class EncodedImage:
    data: bytes  # PNG, JPEG, ...


@dataclass(frozen=True)
class PixelImage:
    pixels: NDArray[np.uint8]  # (H, W, C), C 1 or 3


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class BadInput:
    """An input that could not even be taken out of the body."""

    error: InputRejected
    modality: Modality


Input = EncodedImage | PixelImage | Text | BadInput


def text_input(text: str, max_characters: int) -> Input:
    """A text, unless it is longer than the limit."""
    if len(text) > max_characters:
        return BadInput(TextTooLong(len(text), max_characters), "text")
    return Text(text)


def modality_of(item: Input) -> Modality:
    match item:
        case BadInput():
            return item.modality
        case Text():
            return "text"
        case EncodedImage() | PixelImage():
            return "image"


@dataclass(frozen=True)
class ScoreRequest:
    """None: not said."""

    inputs: Sequence[Input]
    model: str | None = None
    version: str | None = None
    detectors: Sequence[str] | None = None
    id_acceptance: float | None = None

    @property
    def modality(self) -> Modality:
        """Of all inputs.  Raises MixedModalities."""
        modalities: set[Modality] = {modality_of(item) for item in self.inputs}
        if len(modalities) > 1:
            raise MixedModalities
        return modalities.pop()
