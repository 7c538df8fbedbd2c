"""What a request body holds, once taken apart: inputs in their order, and what was asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InputRejected


@dataclass(frozen=True)
class EncodedImage:
    data: bytes  # PNG, JPEG, ...


@dataclass(frozen=True)
class PixelImage:
    pixels: NDArray[np.uint8]  # (H, W, C), C 1 or 3


@dataclass(frozen=True)
class TextInput:
    text: str


@dataclass(frozen=True)
class BadInput:
    """An input that could not even be taken out of the body."""

    error: InputRejected


Input = EncodedImage | PixelImage | TextInput | BadInput


@dataclass(frozen=True)
class ScoreRequest:
    """None: not said."""

    inputs: Sequence[Input]
    model: str | None = None
    version: str | None = None
    detectors: Sequence[str] | None = None
    id_acceptance: float | None = None
