"""Images in memory."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from service.bundle import ImageInput, resize_pixels
from training.data.input_set import InputSet


@dataclass(frozen=True)
class ImageSet(InputSet):
    """inputs: uint8 (N, H, W, C); files: where each came from, empty where from none."""

    inputs: NDArray[np.uint8]
    files: tuple[str, ...] = ()

    kind: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        if self.inputs.ndim != 4 or self.inputs.dtype != np.uint8:
            raise ValueError(
                f"{self.name}: images are {self.inputs.dtype} {self.inputs.shape}, "
                "expected uint8 (N, H, W, C)"
            )
        super().__post_init__()
        if self.files and len(self.files) != len(self):
            raise ValueError(f"{self.name}: {len(self.files)} files, {len(self)} images")

    def take(self, indices: NDArray[np.int64], name: str) -> Self:
        return replace(
            self,
            name=name,
            inputs=self.inputs[indices],
            labels=self.labels[indices],
            files=taken_files(self.files, indices),
        )

    def changed(
        self, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], name: str, origin: str
    ) -> Self:
        """Every image (H, W, C) through `change`, which keeps its shape."""
        inputs = np.stack([change(image) for image in self.inputs])
        return replace(self, name=name, inputs=inputs, origin=origin)

    def sized_for(self, spec: ImageInput) -> Self:
        """The same images through the serving path's resize and channel rule."""
        if self.inputs.shape[1:] == (spec.height, spec.width, spec.channels):
            return self
        return replace(self, inputs=np.stack([resize_pixels(i, spec) for i in self.inputs]))


def taken_files(files: tuple[str, ...], indices: NDArray[np.int64]) -> tuple[str, ...]:
    """Those of some images; none where there are none."""
    return tuple(files[index] for index in indices) if files else ()
