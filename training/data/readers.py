"""Data sources by name.  A new source is one function and one line here."""

from collections.abc import Callable

from training.data.derived import read_noise
from training.data.image_set import ImageSet
from training.data.sources import read_folder, read_idx, read_npz, read_torchvision

SOURCES: dict[str, Callable[..., ImageSet]] = {
    "folder": read_folder,
    "idx": read_idx,
    "noise": read_noise,
    "npz": read_npz,
    "torchvision": read_torchvision,
}
