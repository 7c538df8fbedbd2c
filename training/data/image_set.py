"""Images in memory, with their labels and where they come from."""

import hashlib
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.bundle import ImageInput, resize_pixels


class DataUnavailable(Exception):
    """A data set that is not on this machine; the message says how to get it."""


class DataError(Exception):
    """A data set that contradicts itself or another; the message says how."""


@dataclass(frozen=True)
class ImageSet:
    """images: uint8 (N, H, W, C); labels: int64 (N,), -1 where there is none."""

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    origin: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                f"{self.name}: images are {self.images.dtype} {self.images.shape}, "
                "expected uint8 (N, H, W, C)"
            )
        if len(self.images) == 0 or self.labels.shape != (len(self.images),):
            raise ValueError(f"{self.name}: {len(self.images)} images, labels {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: NDArray[np.int64], name: str) -> Self:
        return replace(self, name=name, images=self.images[indices], labels=self.labels[indices])

    def sized_for(self, spec: ImageInput) -> Self:
        """The same images through the serving path's resize and channel rule."""
        if self.images.shape[1:] == (spec.height, spec.width, spec.channels):
            return self
        return replace(self, images=np.stack([resize_pixels(i, spec) for i in self.images]))

    def fingerprint(self) -> str:
        """Count and SHA-256 over pixels and labels, for the provenance."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
        digest.update(self.labels.tobytes())
        return f"{len(self)} images, sha256 {digest.hexdigest()[:16]}, {self.origin}"
