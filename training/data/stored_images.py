"""Large images stay where they are and are decoded when they are read, so that the memory a set
needs does not grow with it."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import ImageInput, to_model_pixels
from training.data.image_set import ImageSet, taken_files
from training.data.input_set import DataError
from training.progress import track

# Bytes of one image: smaller ones are decoded once and kept, 50,000 of them in 600 MB.
_SMALL = 64 * 64 * 3

Pixels = NDArray[np.uint8]


class DecodedOnRead:
    """Reads like a uint8 array (N, H, W, C): what is asked for is decoded, nothing is kept."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        decode: Callable[[int], Pixels],
        positions: NDArray[np.int64],
        spec: ImageInput,
        content: Callable[[int], bytes] | None = None,
    ) -> None:
        """`decode`: position -> (H, W, C); `content`: position -> bytes that are equal for equal
        inputs, the pixels where there is nothing cheaper."""
        self._decode = decode
        self._positions = positions
        self._spec = spec
        self._content = content or (lambda position: decode(position).tobytes())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self._positions), *self._spec.shape

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, where: Any) -> Pixels:
        chosen = self._positions[where]
        if chosen.ndim == 0:
            return self._decode(int(chosen))
        images = np.empty((len(chosen), *self._spec.shape), np.uint8)

        def fill(row: int) -> None:
            images[row] = self._decode(int(chosen[row]))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(fill, range(len(chosen))):
                pass
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        return self[:]

    def chosen(self, indices: NDArray[np.int64]) -> "DecodedOnRead":
        """Some of them, still to be decoded."""
        return DecodedOnRead(self._decode, self._positions[indices], self._spec, self._content)

    def changed(self, change: Callable[[Pixels], Pixels]) -> "DecodedOnRead":
        """Every image through `change` once it is decoded."""
        return DecodedOnRead(lambda p: change(self._decode(p)), self._positions, self._spec)

    def digests(self) -> Iterator[bytes]:
        """SHA-256 of each input's content."""
        return (hashlib.sha256(self._content(int(p))).digest() for p in self._positions)


@dataclass(frozen=True)
class StoredImages(ImageSet):
    """An ImageSet whose `inputs` are DecodedOnRead."""

    @classmethod
    def of(
        cls,
        name: str,
        inputs: DecodedOnRead,
        labels: NDArray[np.int64],
        class_names: tuple[str, ...],
        origin: str,
    ) -> Self:
        return cls(name, cast(Pixels, inputs), labels, class_names, origin)

    @property
    def stored(self) -> DecodedOnRead:
        return cast(DecodedOnRead, self.inputs)

    def take(self, indices: NDArray[np.int64], name: str) -> Self:
        inputs = cast(Pixels, self.stored.chosen(indices))
        files = taken_files(self.files, indices)
        return replace(self, name=name, inputs=inputs, labels=self.labels[indices], files=files)

    def changed(self, change: Callable[[Pixels], Pixels], name: str, origin: str) -> Self:
        inputs = cast(Pixels, self.stored.changed(change))
        return replace(self, name=name, inputs=inputs, origin=origin)

    def sized_for(self, spec: ImageInput) -> Self:
        return self

    def contents(self) -> Iterator[bytes]:
        return self.stored.digests()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for content in track(self.stored.digests(), f"hashing {self.name}", len(self)):
            digest.update(content)
        digest.update(self.labels.tobytes())
        return f"{len(self)} {self.kind}, sha256 {digest.hexdigest()[:16]}, {self.origin}"


def read_image_files(
    name: str,
    files: Sequence[Path],
    spec: ImageInput,
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    origin: str,
) -> ImageSet:
    """Small images in memory, large ones where they are; DataError names a file that is none."""

    def decode(position: int) -> Pixels:
        try:
            with Image.open(files[position]) as image:
                return to_model_pixels(image, spec)
        except Exception as exc:  # Pillow raises OSError, SyntaxError, ValueError, struct.error ...
            raise DataError(
                f"{name}: {files[position]}: is no readable image ({exc}); mend it or take it away"
            ) from exc

    if spec.height * spec.width * spec.channels > _SMALL:
        positions = np.arange(len(files))
        inputs = DecodedOnRead(decode, positions, spec, lambda p: files[p].read_bytes())
        stored = StoredImages.of(name, inputs, labels, class_names, origin)
        return replace(stored, files=tuple(map(str, files)))
    images = np.empty((len(files), *spec.shape), np.uint8)
    for index in track(range(len(files)), f"reading {name}"):
        images[index] = decode(index)
    return ImageSet(name, images, labels, class_names, origin, tuple(map(str, files)))
