"""Data that cannot be read are refused by name, whatever is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.bundle import ImageInput
from training.active.pool import read_image_pool
from training.data import SOURCES
from training.data.input_set import DataError, DataUnavailable

SPEC = ImageInput(height=4, width=4, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
PIXELS = np.zeros((3, 4, 4, 3), np.uint8)


def write_images(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS[0]).save(folder / name)


@pytest.mark.parametrize("read", ["source", "pool"])
@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_table_that_is_not_utf8(name: str, read: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    lines = {
        "list.csv": "image,label\na.png,gr\xfcn\n",
        "list.jsonl": '{"image": "a.png", "label": "gr\xfcn"}\n',
    }
    table = tmp_path / name
    table.write_bytes(lines[name].encode("latin-1"))

    def tried() -> None:
        if read == "pool":
            read_image_pool(table, tmp_path / "state")
        else:
            SOURCES[table.suffix[1:]]("d", SPEC, path=str(table))

    with pytest.raises(DataError, match=rf"{name}: is not UTF-8 .*save it as UTF-8"):
        tried()
    table.write_bytes(lines[name].encode("utf-8-sig"))
    tried()


def _one_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, PIXELS)


def _pickled(file: Path) -> None:
    np.savez(file, images=np.array([{"an": "object"}], object))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda file: file.write_bytes(b"no archive"), "is no npz of plain arrays"),
        (lambda file: file.write_bytes(b"PK\x03\x04 cut"), "is no npz of plain arrays"),
        (_one_array, "is no npz of plain arrays"),
        (_pickled, "without pickled objects"),
        (lambda file: np.savez(file, pictures=PIXELS), r"holds \['pictures'\]; expected `images`"),
        (
            lambda file: np.savez(file, images=PIXELS / 255),
            r"float64 \(3, 4, 4, 3\); expected uint8",
        ),
        (lambda file: np.savez(file, images=PIXELS[0, 0]), r"uint8 \(4, 3\); expected uint8 \(N"),
        (
            lambda file: np.savez(file, images=PIXELS, labels=[0, 1]),
            r"`labels` is int64 \(2,\); expected whole numbers \(3,\)",
        ),
        (
            lambda file: np.savez(file, images=PIXELS, labels=["a", "b", "c"]),
            "names in `class_names`",
        ),
    ],
)
def test_an_npz_that_does_not_fit(write: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    file = tmp_path / "images.npz"
    write(file)
    with pytest.raises(DataError, match=said) as refused:
        SOURCES["npz"]("d", SPEC, path=str(file))
    assert str(file) in str(refused.value)


def test_an_npz_without_an_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", images=PIXELS[:0])
    with pytest.raises(DataUnavailable, match=r"none\.npz holds no image"):
        SOURCES["npz"]("d", SPEC, path=str(tmp_path / "none.npz"))


def test_whatever_a_decoder_raises_is_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)  # of which 16 are more than twice as many
    with pytest.raises(DataError, match=r"a\.png: is no readable image \(.*decompression bomb"):
        SOURCES["folder"]("d", SPEC, path=str(tmp_path))


class Damaged:
    """A Dataset of two images; the second one cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index == 1:
            raise RuntimeError("the disk is gone\nand more")
        return PIXELS[0], 0


class Named(Damaged):
    targets = ("cat", "dog")


class Failing:
    def __init__(self) -> None:
        raise KeyError("no such split")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "Damaged",
            r"item 1 cannot be read as \(input, label\): RuntimeError: the disk is gone \(",
        ),
        ("Named", "a label is no whole number .*'cat'"),
        ("Failing", "fails when it is called: KeyError: 'no such split'"),
    ],
)
def test_a_dataset_that_raises(name: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"d: test_damaged_data:{name}.*{said}"):
        SOURCES["dataset"]("d", SPEC, dataset=f"test_damaged_data:{name}")


def test_a_module_that_raises_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dividing.py").write_text("COUNT = 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"dividing fails: ZeroDivisionError.*dividing\.py, line 1"):
        SOURCES["dataset"]("d", SPEC, dataset="dividing:Set")
