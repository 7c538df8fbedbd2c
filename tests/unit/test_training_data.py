"""Readers, derived sets and the disjointness of roles."""

import gzip
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import SPEC, digits, write_digits

from training.config import DataConfig, SourceConfig
from training.data import CONTROL, SOURCES, DataUnavailable, load_roles
from training.data.derived import (
    PROXIES,
    invert,
    jigsaw,
    mixup,
    phase_scramble,
    pixelate,
    proxy_outliers,
    quarter_turn,
)
from training.data.image_set import ImageSet
from training.data.input_set import DataError
from training.data.loaders import ImageLoader
from training.data.roles import load_first


def write_idx(folder: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    header = struct.pack(">HBBIII", 0, 8, 3, *images.shape[:3])
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz", "wb") as stream:
        stream.write(header + images.tobytes())
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(
        struct.pack(">HBBI", 0, 8, 1, len(labels)) + labels.astype(np.uint8).tobytes()
    )


def test_idx_files_gzipped_or_not(tmp_path: Path) -> None:
    images, labels = digits()
    write_idx(tmp_path / "idx", "train", images[:50], labels[:50])
    found = SOURCES["idx"]("d", SPEC, path=str(tmp_path / "idx"), split="train")
    np.testing.assert_array_equal(found.inputs, images[:50])
    np.testing.assert_array_equal(found.labels, labels[:50])


def test_idx_files_of_some_classes_in_the_order_asked_for(tmp_path: Path) -> None:
    images, labels = digits()
    write_idx(tmp_path / "idx", "train", images[:50], labels[:50])
    read = partial(SOURCES["idx"], "d", SPEC, path=str(tmp_path / "idx"), split="train")
    found = read(classes=("7", "3"))
    assert found.class_names == ("7", "3")
    rows = np.flatnonzero(np.isin(labels[:50], [3, 7]))
    np.testing.assert_array_equal(found.inputs, images[rows])
    np.testing.assert_array_equal(found.labels, np.where(labels[rows] == 7, 0, 1))
    for wrong in (("7", "11"), ("3", "3")):
        with pytest.raises(ValueError, match=r"name some of \['0', .*each once"):
            read(classes=wrong)


def test_a_cut_idx_file_is_refused_by_name(tmp_path: Path) -> None:
    images, labels = digits()
    write_idx(tmp_path / "idx", "train", images[:50], labels[:50])
    file = tmp_path / "idx" / "train-labels-idx1-ubyte"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte"):
        SOURCES["idx"]("d", SPEC, path=str(tmp_path / "idx"), split="train")


def test_npz_of_arrays_and_of_jpeg_files(tmp_path: Path) -> None:
    images, labels = digits()
    write_digits(tmp_path)
    plain = SOURCES["npz"]("d", SPEC, path=str(tmp_path / "test.npz"))
    np.testing.assert_array_equal(plain.inputs, images[1300:])
    assert plain.class_names == tuple("0123456789")

    files = []
    for image in images[:5]:
        path = tmp_path / "one.jpg"
        Image.fromarray(image[:, :, 0]).save(path, quality=95)
        files.append(path.read_bytes())
    offsets = np.cumsum([0, *map(len, files)])
    jpeg = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "jpeg.npz", jpeg=jpeg, offsets=offsets, labels=labels[:5])
    decoded = SOURCES["npz"]("d", SPEC, path=str(tmp_path / "jpeg.npz"))
    assert np.abs(decoded.inputs.astype(int) - images[:5]).mean() < 4  # JPEG's own loss
    np.testing.assert_array_equal(decoded.labels, labels[:5])


def test_a_folder_of_class_folders_takes_the_serving_path(tmp_path: Path) -> None:
    images, _ = digits()
    for index, label in enumerate(["cat", "dog", "cat"]):
        (tmp_path / "set" / label).mkdir(parents=True, exist_ok=True)
        big = Image.fromarray(images[index, :, :, 0]).resize((56, 56)).convert("RGB")
        big.save(tmp_path / "set" / label / f"{index}.png")
    # what systems and notebooks leave behind is neither an image nor a class
    (tmp_path / "set" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "set" / ".ipynb_checkpoints" / "0.png").write_bytes(b"a copy of yesterday")
    (tmp_path / "set" / "cat" / "._0.png").write_bytes(b"no image")
    found = SOURCES["folder"]("pets", SPEC, path=str(tmp_path / "set"))
    assert found.inputs.shape == (3, 28, 28, 1)
    assert found.class_names == ("cat", "dog")
    assert sorted(found.labels) == [0, 0, 1]


def test_torchvision_reader_on_files_it_finds(tmp_path: Path) -> None:
    images, labels = digits()
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        write_idx(tmp_path / split, prefix, images[:30], labels[:30])
        for kind in ("images-idx3", "labels-idx1"):
            source = tmp_path / split / f"{prefix}-{kind}-ubyte"
            zipped = source.with_name(source.name + ".gz")
            content = gzip.decompress(zipped.read_bytes()) if zipped.exists() else None
            (raw / source.name).write_bytes(content or source.read_bytes())
    found = SOURCES["torchvision"](
        "fm", SPEC, dataset="FashionMNIST", root=str(tmp_path), split="test", download=False
    )
    np.testing.assert_array_equal(found.inputs, images[:30])
    with pytest.raises(DataUnavailable, match="MNIST"):
        SOURCES["torchvision"](
            "m", SPEC, dataset="MNIST", root=str(tmp_path), split="test", download=False
        )


def test_the_first_available_source_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path)
    monkeypatch.setenv("TOY_DATA", str(tmp_path))
    monkeypatch.delenv("UNSET_DATA", raising=False)
    absent = SourceConfig(source="npz", path="${UNSET_DATA}/a.npz")  # type: ignore[call-arg]
    missing = SourceConfig(source="npz", path=str(tmp_path / "no.npz"))  # type: ignore[call-arg]
    there = SourceConfig(source="npz", path="${TOY_DATA}/test.npz")  # type: ignore[call-arg]
    assert len(load_first("d", (absent, missing, there), ImageLoader(SPEC))) == 497
    with pytest.raises(DataUnavailable, match=r"UNSET_DATA.*not set.*no\.npz"):
        load_first("d", (absent, missing), ImageLoader(SPEC))


def test_noise_is_seeded_and_of_two_kinds() -> None:
    make = SOURCES["noise"]
    first = make("n", SPEC, kind="uniform", count=50, seed=1)
    np.testing.assert_array_equal(
        first.inputs, make("n", SPEC, kind="uniform", count=50, seed=1).inputs
    )
    assert (first.inputs != make("n", SPEC, kind="uniform", count=50, seed=2).inputs).any()
    gaussian = make("n", SPEC, kind="gaussian", count=50, seed=1).inputs.astype(float)
    assert abs(first.inputs.astype(float).std() - 256 / 12**0.5) < 1.5
    assert abs(gaussian.mean() - 127.5) < 1
    assert 60 < gaussian.std() < 64  # sigma 63.75, a little less for the clipping
    with pytest.raises(ValueError, match="salt"):
        make("n", SPEC, kind="salt")


def test_proxies_keep_pixels_but_not_their_places() -> None:
    images, _ = digits()
    rng = np.random.default_rng(0)
    shuffled = jigsaw(images[:20], rng)
    assert shuffled.shape == (20, 28, 28, 1)
    assert (shuffled != images[:20]).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(
        np.sort(shuffled.reshape(20, -1)), np.sort(images[:20].reshape(20, -1))
    )
    blocks = pixelate(images[:20], rng)
    squares = blocks.reshape(20, 4, 7, 4, 7)
    assert (squares == squares[:, :, :1, :, :1]).all()


def test_more_proxies_do_not_change_the_first_two() -> None:
    images, labels = digits()
    dev = ImageSet("dev", images[:40], labels[:40], tuple("0123456789"), "digits")
    few = proxy_outliers(dev, ("jigsaw", "pixelate"), 7)
    every = proxy_outliers(dev, tuple(PROXIES), 7)
    again = proxy_outliers(dev, tuple(PROXIES), 7)
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(few["jigsaw"].inputs, jigsaw(dev.inputs, rng))
    np.testing.assert_array_equal(few["pixelate"].inputs, pixelate(dev.inputs, rng))
    for kind, outliers in every.items():
        assert (outliers.labels == -1).all()
        assert (outliers.inputs != dev.inputs).any(axis=(1, 2, 3)).mean() > 0.9
        np.testing.assert_array_equal(outliers.inputs, again[kind].inputs)
        if kind in few:
            np.testing.assert_array_equal(outliers.inputs, few[kind].inputs)


def test_mixup_is_the_mean_of_two_images_of_different_classes() -> None:
    images = np.array([0, 2, 100, 255], np.uint8)[:, None, None, None]
    found = mixup(images, np.array([0, 0, 1, 1]), np.random.default_rng(0)).ravel()
    possible = [{50, 128}, {51, 129}, {50, 51}, {128, 129}]
    assert all(value in values for value, values in zip(found, possible, strict=True))
    with pytest.raises(ValueError, match="label 3; it needs two classes"):
        mixup(images, np.full(4, 3), np.random.default_rng(0))


def test_quarter_turn_turns_the_middle_square_either_way() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 4, 3), dtype=np.uint8)
    turned = quarter_turn(images, np.random.default_rng(1))
    np.testing.assert_array_equal(turned[:, [0, 5]], images[:, [0, 5]])
    ways = {
        way
        for before, after in zip(images[:, 1:5], turned[:, 1:5], strict=True)
        for way in (1, 3)
        if (np.rot90(before, way) == after).all()
    }
    assert ways == {1, 3}


def test_phase_scramble_keeps_mean_and_spectrum_and_moves_the_rest() -> None:
    # low contrast, so that nothing is clipped
    images = np.random.default_rng(0).integers(110, 146, (20, 8, 7, 3), dtype=np.uint8)
    scrambled = phase_scramble(images, np.random.default_rng(1))
    assert np.abs(np.corrcoef(images.ravel(), scrambled.ravel())[0, 1]) < 0.1
    before, after = (np.abs(np.fft.fft2(x.astype(float), axes=(1, 2))) for x in (images, scrambled))
    assert np.abs(before - after).max() < 12  # rounding of 56 pixels
    assert np.abs(before - after).mean() < 3


def test_invert() -> None:
    images = np.array([[[[0, 7, 255]]]], np.uint8)
    np.testing.assert_array_equal(invert(images, np.random.default_rng(0)), [[[[255, 248, 0]]]])


def test_jigsaw_of_a_size_that_tiles_do_not_divide() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 29, 3), dtype=np.uint8)
    assert jigsaw(images, np.random.default_rng(1)).shape == images.shape


def data_config(folder: Path, **changes: object) -> DataConfig:
    values: dict[str, object] = {
        "train": [{"source": "npz", "path": str(folder / "train.npz")}],
        "test": [{"source": "npz", "path": str(folder / "test.npz")}],
        "dev_count": 100,
        "cal_count": 300,
        "test_ood": {
            "noise": [{"source": "noise", "kind": "uniform", "count": 40}],
            "absent": [{"source": "npz", "path": "${NOT_SET_ANYWHERE}/x.npz"}],
        },
        "proxy_ood": ["jigsaw"],
    }
    return DataConfig.model_validate(values | changes)


def test_roles_are_disjoint_and_cover_everything(tmp_path: Path) -> None:
    images, labels = digits()
    # every image carries its own number, so that sets can be told apart
    numbered = images[:1300].copy()
    numbered[:, 0, 0, 0], numbered[:, 0, 1, 0] = np.divmod(np.arange(1300), 256)
    np.savez(tmp_path / "train.npz", images=numbered, labels=labels[:1300])
    np.savez(tmp_path / "test.npz", images=images[1300:], labels=labels[1300:])
    roles = load_roles(data_config(tmp_path), SPEC, seed=3)
    parts = [
        {int(a) * 256 + int(b) for a, b in part.inputs[:, 0, :2, 0]}
        for part in (roles.train_id, roles.dev_id, roles.cal_id)
    ]
    assert [len(part) for part in parts] == [900, 100, 300]
    assert set().union(*parts) == set(range(1300))
    assert set(roles.test_ood) == {"noise"}
    assert set(roles.controls) == {CONTROL}
    assert set(roles.proxies) == {"jigsaw"}
    assert "NOT_SET_ANYWHERE" in roles.missing["absent"]
    again = load_roles(data_config(tmp_path), SPEC, seed=3)
    assert again.fingerprints() == roles.fingerprints()
    assert load_roles(data_config(tmp_path), SPEC, seed=4).fingerprints() != roles.fingerprints()


def test_too_large_a_held_out_part_is_refused(tmp_path: Path) -> None:
    write_digits(tmp_path)
    with pytest.raises(DataUnavailable, match="1300 images"):
        load_roles(data_config(tmp_path, cal_count=700), SPEC, seed=0)


def test_a_single_class_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    images, _ = digits()
    for name in ("train", "test"):
        labels = np.zeros(len(images), np.int64)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels, class_names=["only"])
    with pytest.raises(DataError, match=r"classes \['only'\]; a classifier tells at least two"):
        load_roles(data_config(tmp_path), SPEC, seed=0)


def test_dev_and_cal_of_a_held_out_source(tmp_path: Path) -> None:
    images, labels = digits()
    write_digits(tmp_path)
    np.savez(tmp_path / "val.npz", images=255 - images[:500], labels=labels[:500])
    held_out = [{"source": "npz", "path": str(tmp_path / "val.npz")}]
    roles = load_roles(data_config(tmp_path, held_out=held_out), SPEC, seed=3)
    assert [len(part) for part in (roles.train_id, roles.dev_id, roles.cal_id)] == [1300, 100, 300]
    given = {image.tobytes() for image in 255 - images[:500]}
    assert given >= {image.tobytes() for image in roles.cal_id.inputs}
    drawn = np.concatenate([roles.dev_id.inputs, roles.cal_id.inputs])
    assert len({image.tobytes() for image in drawn}) == 400
    with pytest.raises(DataUnavailable, match=r"held_out has 500 images, fewer than .* = 501"):
        load_roles(data_config(tmp_path, held_out=held_out, cal_count=401), SPEC, seed=0)


def test_unknown_source_argument_and_proxy_are_named(tmp_path: Path) -> None:
    write_digits(tmp_path)
    bad = SourceConfig(source="npz", path=str(tmp_path / "test.npz"), colour=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="colour"):
        load_first("d", (bad,), ImageLoader(SPEC))
    with pytest.raises(ValueError, match="ftp"):
        load_first("d", (SourceConfig(source="ftp"),), ImageLoader(SPEC))
    dev = SOURCES["npz"]("d", SPEC, path=str(tmp_path / "test.npz"))
    with pytest.raises(ValueError, match=r"strokes.*choose of.*mixup"):
        proxy_outliers(dev, ("strokes",), 0)
