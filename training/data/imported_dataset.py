"""A torch Dataset of your own by its import path: items (input, label).

A config thus names code to run; only what is, or makes, an object with a length and items is used.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import ImageInput, resize_pixels, to_model_pixels
from training.data.image_set import ImageSet
from training.data.input_set import DataError, DataUnavailable
from training.data.raw_texts import RawTexts
from training.data.stored_images import DecodedOnRead, StoredImages
from training.foreign_code import in_short
from training.progress import track

_FORM = re.compile(r"(\w+(?:\.\w+)*):(\w+(?:\.\w+)*)")


def read_image_dataset(
    name: str,
    spec: ImageInput,
    *,
    dataset: str,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> ImageSet:
    """`dataset`: "package.module:name" of a Dataset, or of what makes one when it is called with
    `arguments`.  Its images are PIL images or uint8 arrays (H, W, C); they are read when needed.
    """
    data = _dataset(name, dataset, arguments)

    def decode(position: int) -> NDArray[np.uint8]:
        return _pixels(name, _part(name, dataset, data, position, 0), spec)

    decode(0)
    labels = _labels(name, dataset, data)
    names = _class_names(data, class_names, labels)
    inputs = DecodedOnRead(decode, np.arange(len(data)), spec)
    return StoredImages.of(name, inputs, labels, names, dataset)


def read_text_dataset(
    name: str,
    *,
    dataset: str,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> RawTexts:
    """As `read_image_dataset`; its inputs are strings."""
    data = _dataset(name, dataset, arguments)
    texts = [_part(name, dataset, data, position, 0) for position in range(len(data))]
    if wrong := [type(text).__name__ for text in texts if not isinstance(text, str)]:
        raise DataError(f"{name}: {dataset} gives a {wrong[0]} where a text is expected")
    labels = _labels(name, dataset, data)
    return RawTexts(name, tuple(texts), labels, _class_names(data, class_names, labels), dataset)


def _dataset(name: str, path: str, arguments: Mapping[str, Any] | None) -> Any:
    form = _FORM.fullmatch(path)
    if form is None:
        raise DataError(f"{name}: dataset {path!r} is not of the form package.module:name")
    module, attribute = form.groups()
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise DataUnavailable(
            f"{name}: {path} cannot be imported ({exc}); install it or put its folder on PYTHONPATH"
        ) from exc
    except Exception as exc:  # whatever the code of others raises
        raise DataError(f"{name}: {module} fails: {in_short(exc)}") from exc
    try:
        data: Any = found(**(arguments or {})) if callable(found) else found
    except Exception as exc:
        raise DataError(f"{name}: {path} fails when it is called: {in_short(exc)}") from exc
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or not len(data):
        raise DataError(
            f"{name}: {path} is a {type(data).__name__}; a Dataset with a length, at least one "
            "item, and items (input, label) is expected"
        )
    return data


def _part(name: str, path: str, data: Any, position: int, part: int) -> Any:
    """The input (0) or the label (1) of one item."""
    try:
        return data[position][part]
    except Exception as exc:
        raise DataError(
            f"{name}: {path}: item {position} cannot be read as (input, label): {in_short(exc)}"
        ) from exc


def _labels(name: str, path: str, data: Any) -> NDArray[np.int64]:
    """From its list of labels where it has one; otherwise every item is read once."""
    for attribute in ("targets", "labels"):
        given = getattr(data, attribute, None)
        if given is not None and len(given) == len(data):
            break
    else:
        items = track(range(len(data)), f"reading labels of {name}")
        given = [_part(name, path, data, position, 1) for position in items]
    try:
        return np.array([int(label) for label in given], np.int64)
    except (TypeError, ValueError) as exc:
        raise DataError(
            f"{name}: {path}: a label is no whole number ({exc}); classes go by position, their "
            "names by the Dataset's `classes`"
        ) from exc


def _class_names(data: Any, given: Sequence[str], labels: NDArray[np.int64]) -> tuple[str, ...]:
    names = tuple(given) or tuple(map(str, getattr(data, "classes", ())))
    return names or tuple(str(number) for number in range(int(labels.max()) + 1))


def _pixels(name: str, image: Any, spec: ImageInput) -> NDArray[np.uint8]:
    if isinstance(image, Image.Image):
        return to_model_pixels(image, spec)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(
            f"{name}: an item's image is {pixels.dtype} {pixels.shape}; expected a PIL image or "
            "uint8 (H, W, C): leave tensors and normalisation out of the Dataset, the network's "
            "input is described by the config"
        )
    return resize_pixels(pixels[..., None] if pixels.ndim == 2 else pixels, spec)
