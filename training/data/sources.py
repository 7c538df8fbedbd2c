"""Readers: files on disk or a torchvision download -> ImageSet.

Every reader raises DataUnavailable, saying how to get the data, where it is absent.
"""

import gzip
import inspect
import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import ImageInput, to_model_pixels
from training.data.downloads import downloads_allowed
from training.data.folders import input_files, is_hidden
from training.data.image_set import ImageSet
from training.data.input_set import DataError, DataUnavailable
from training.data.stored_images import read_image_files
from training.progress import track

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def read_idx(
    name: str,
    spec: ImageInput,
    *,
    path: str,
    split: str,
    class_names: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
) -> ImageSet:
    """The idx files of the MNIST family, gzipped or not; `split` is train or test.

    `classes`: these alone, in this order; all where left out.

    Debian's dataset-fashion-mnist installs them in /usr/share/datasets/fashion-mnist.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    images = _read_idx_array(Path(path), f"{prefix}-images-idx3-ubyte")[..., None]
    labels = _read_idx_array(Path(path), f"{prefix}-labels-idx1-ubyte").astype(np.int64)
    if not class_names and "fashion" in path:
        class_names = FASHION_MNIST_CLASSES
    names = tuple(class_names) or _numbered(labels)
    whole = ImageSet(name, images, labels, names, f"idx files, {split}")
    return (_of_classes(whole, tuple(classes)) if classes else whole).sized_for(spec)


def read_npz(name: str, spec: ImageInput, *, path: str, limit: int | None = None) -> ImageSet:
    """`images` uint8 (N,H,W[,3]) or `jpeg` bytes with `offsets`; `labels`, `class_names`.

    `limit`: so many at most, taken evenly.
    """
    file = Path(path)
    if not file.is_file():
        raise DataUnavailable(f"{name}: no file {path}")
    archive = _arrays(name, file)
    names = tuple(str(n) for n in archive["class_names"]) if "class_names" in archive else ()
    if "images" in archive:
        images = archive["images"]
        if images.dtype != np.uint8 or images.ndim not in (3, 4):
            raise DataError(
                f"{name}: {path}: `images` is {images.dtype} {images.shape}; expected uint8 "
                "(N, H, W) or (N, H, W, C)"
            )
        chosen = _evenly(len(images), limit)
        images = images[chosen]
        images = images[..., None] if images.ndim == 3 else images
    elif {"jpeg", "offsets"} <= set(archive):
        chosen = _evenly(len(archive["offsets"]) - 1, limit)
        images = _decode_all(archive["jpeg"], archive["offsets"], chosen, spec, name)
    else:
        raise DataError(
            f"{name}: {path}: holds {sorted(archive)}; expected `images`, or `jpeg` and `offsets`"
        )
    if not len(images):
        raise DataUnavailable(f"{name}: {path} holds no image")
    labels = np.full(len(images), -1)
    if "labels" in archive:
        count = len(archive["images"] if "images" in archive else archive["offsets"][1:])
        labels = archive["labels"]
        if labels.dtype.kind not in "iu" or labels.shape != (count,):
            raise DataError(
                f"{name}: {path}: `labels` is {labels.dtype} {labels.shape}; expected whole "
                f"numbers ({count},), and names in `class_names`"
            )
        labels = labels[chosen]
    names = names or _numbered(labels)
    return ImageSet(name, images, labels.astype(np.int64), names, file.name).sized_for(spec)


def _arrays(name: str, file: Path) -> dict[str, NDArray[Any]]:
    """Every array of an npz; DataError where it is none, or would have to be unpickled."""
    try:
        with file.open("rb") as stream:  # which np.load would leave open where it is no archive
            archive = np.load(stream, allow_pickle=False)
            return {key: archive[key] for key in archive.files}
    except (AttributeError, EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as exc:
        raise DataError(
            f"{name}: {file}: is no npz of plain arrays ({exc}); write it with "
            "numpy.savez(file, images=...), without pickled objects"
        ) from exc


def read_folder(name: str, spec: ImageInput, *, path: str) -> ImageSet:
    """A folder of class sub-folders; a folder of images without sub-folders has no labels.  What is
    hidden is no input."""
    root = Path(path)
    if not root.is_dir():
        raise DataUnavailable(f"{name}: no folder {path}")
    folders = (child for child in root.iterdir() if child.is_dir())
    classes = sorted(folder.name for folder in folders if not is_hidden(folder, root))
    files = input_files(root, _IMAGE_SUFFIXES)
    if not files:
        raise DataUnavailable(
            f"{name}: {path} holds no image ({', '.join(sorted(_IMAGE_SUFFIXES))})"
        )
    index_of = {label: i for i, label in enumerate(classes)}
    labels = np.array([index_of.get(f.relative_to(root).parts[0], -1) for f in files], np.int64)
    return read_image_files(name, files, spec, labels, tuple(classes), f"folder {root.name}")


def read_torchvision(
    name: str,
    spec: ImageInput,
    *,
    dataset: str,
    root: str,
    split: str,
    download: bool = True,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> ImageSet:
    """A torchvision data set by class name, downloaded to `root` when allowed.

    `limit`: so many images at most, taken evenly.  `options`: further arguments of the class.
    """
    from torchvision import datasets  # heavy, and only this reader needs it

    if not hasattr(datasets, dataset):
        raise ValueError(f"{name}: torchvision has no data set {dataset!r}")
    kind = getattr(datasets, dataset)
    # torchvision has two ways to name a split
    takes_train = "train" in inspect.signature(kind).parameters
    arguments = {"train": split == "train"} if takes_train else {"split": split}
    try:
        data = kind(
            root=root,
            download=download and downloads_allowed(),
            **arguments,
            **dict(options or {}),
        )
    except (OSError, RuntimeError) as exc:
        raise DataUnavailable(f"{name}: torchvision {dataset} cannot be read ({exc})") from exc
    chosen = _evenly(len(data), limit)
    images = np.empty((len(chosen), spec.height, spec.width, spec.channels), np.uint8)
    labels = np.empty(len(chosen), np.int64)
    for place, index in enumerate(track(chosen.tolist(), f"reading {name}")):
        image, labels[place] = data[index]
        images[place] = to_model_pixels(image, spec)
    names = tuple(getattr(data, "classes", ())) or _numbered(labels)
    return ImageSet(name, images, labels, names, f"torchvision {dataset}, {split}")


def _of_classes(whole: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    unknown = sorted(set(classes) - set(whole.class_names))
    if unknown or len(set(classes)) < len(classes):
        raise ValueError(
            f"{whole.name}: classes {list(classes)}; name some of {list(whole.class_names)}, each "
            "once"
        )
    moved = np.full(len(whole.class_names), -1)
    moved[[whole.class_names.index(name) for name in classes]] = np.arange(len(classes))
    kept = np.flatnonzero(moved[whole.labels] >= 0)
    origin = f"{whole.origin}, classes {', '.join(classes)}"
    labels = moved[whole.labels[kept]]
    return ImageSet(whole.name, whole.inputs[kept], labels, classes, origin)


def _numbered(labels: NDArray[np.integer]) -> tuple[str, ...]:
    return tuple(str(number) for number in range(int(labels.max()) + 1))


def _read_idx_array(folder: Path, stem: str) -> NDArray[np.uint8]:
    for file, opener in ((folder / f"{stem}.gz", gzip.open), (folder / stem, open)):
        if file.is_file():
            with opener(file, "rb") as stream:
                content = stream.read()
            break
    else:
        raise DataUnavailable(f"{folder} holds no {stem}[.gz]")
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or kind != 8:
        raise ValueError(f"{file}: not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if data.size != int(np.prod(shape)):
        raise ValueError(f"{file}: {data.size} bytes of data, its header promises {shape}")
    return data.reshape(shape).copy()  # frombuffer gives read-only memory


def _decode_all(
    jpeg: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    chosen: NDArray[np.int64],
    spec: ImageInput,
    name: str,
) -> NDArray[np.uint8]:
    images = np.empty((len(chosen), spec.height, spec.width, spec.channels), np.uint8)
    for place, index in enumerate(track(chosen.tolist(), f"decoding {name}")):
        data = jpeg[offsets[index] : offsets[index + 1]].tobytes()
        with Image.open(io.BytesIO(data)) as image:
            images[place] = to_model_pixels(image, spec)
    return images


def _evenly(count: int, limit: int | None) -> NDArray[np.int64]:
    """Indices of at most `limit` of `count` inputs."""
    return np.linspace(0, count - 1, min(count, limit or count)).astype(np.int64)
