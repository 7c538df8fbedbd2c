"""Capture for review: which inputs are held, what the disk sees, what a crash leaves."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import CLASSES, id_images, ood_images

import service.captures.folder as disk
from service.bundle import ImageInput, to_model_pixels
from service.captures import (
    OUTCOMES,
    CapturedInput,
    CaptureFolder,
    CaptureFolderUnusable,
    CaptureLimits,
    CaptureRecord,
    CaptureStore,
    without_metadata,
)
from service.captures.export import ExportFailed, export_captures, folder_of
from service.captures.record import record_of
from service.captures.redaction import RedactionFailed, redacted
from service.captures.reservoir import Reservoir, group_of
from service.decision import Verdict, decide, make_plan
from service.graphs import SessionOptions
from service.inputs import EncodedImage, Input, PixelImage
from service.loading import LoadedBundle
from service.repository import open_repository

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LIMITS = CaptureLimits(per_label=3, inputs=100, size_bytes=10_000_000, age=timedelta(days=1))
ITEM = CapturedInput(b"hello", "text/plain", "words", "1", "greeting", "combined", 2.5, 0.004)


def record(number: int, score: float, label: str = "a", size: int = 10) -> CaptureRecord:
    return CaptureRecord(
        id=f"{number:032x}",
        model="tiny",
        version="1",
        label=label,
        detector="combined",
        score=score,
        p_value=0.01,
        media_type="image/png",
        size_bytes=size,
        captured=NOW,
    )


# --- which are held


def test_each_label_keeps_its_most_ood() -> None:
    rng = np.random.default_rng(0)
    scores = {label: rng.permutation(50).astype(float) for label in "abc"}
    reservoir = Reservoir(LIMITS)
    number = 0
    for place in range(50):
        for label, values in scores.items():
            number += 1
            reservoir.add(record(number, values[place], label))
    for label in "abc":
        held = sorted(r.score for r in reservoir if r.label == label)
        assert held == [47.0, 48.0, 49.0]
        assert not reservoir.wants(("tiny", "1", label), 47.0)
        assert reservoir.wants(("tiny", "1", label), 47.5)
    assert reservoir.wants(("tiny", "1", "new"), -1e9)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.floats(-9, 9, allow_subnormal=False), st.integers(1, 60)
        ),
        max_size=80,
    ),
    st.integers(1, 6),
    st.integers(1, 12),
    st.integers(60, 200),
)
def test_no_limit_is_ever_passed(
    offers: list[tuple[str, float, int]], per_label: int, inputs: int, size_bytes: int
) -> None:
    limits = CaptureLimits(per_label, inputs, size_bytes, timedelta(days=1))
    reservoir = Reservoir(limits)
    roomy = len(offers) <= inputs and sum(size for _, _, size in offers) <= size_bytes
    files: dict[str, int] = {}
    for number, (label, score, size) in enumerate(offers):
        offered = record(number, score, label, size)
        wanted = reservoir.wants(group_of(offered), score)
        gone = reservoir.add(offered)
        files[offered.id] = size
        for other in gone:
            del files[other.id]
        assert not roomy or wanted == (offered not in gone)  # equals give way to the first
        assert len(reservoir) == len(files) <= inputs
        assert reservoir.size_bytes == sum(files.values()) <= size_bytes
        assert max(Counter(r.label for r in reservoir).values(), default=0) <= per_label


def test_a_flood_of_one_label_leaves_room_for_others() -> None:
    reservoir = Reservoir(replace(LIMITS, per_label=100, inputs=10))
    for number in range(10):
        reservoir.add(record(number, 1000.0 + number, "flood"))
    for number in range(10, 14):
        assert record(number, 0.1 * number, "rare") not in reservoir.add(
            record(number, 0.1 * number, "rare")
        )
    assert Counter(r.label for r in reservoir) == {"flood": 6, "rare": 4}
    assert min(r.score for r in reservoir if r.label == "flood") == 1004.0


def test_whoever_was_pushed_out_may_come_again_when_there_is_room() -> None:
    reservoir = Reservoir(replace(LIMITS, per_label=100, inputs=2))
    first, second, third = (record(n, float(n)) for n in (1, 2, 3))
    for one in (first, second, third):
        reservoir.add(one)
    assert not reservoir.wants(group_of(first), 1.0)
    reservoir.remove(second)
    assert reservoir.wants(group_of(first), 1.0)
    assert reservoir.get(second.id) is None


# --- the disk


def test_a_capture_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far a crash let it come, a restart finds whole captures and no rests."""
    whole, cut = record_of(ITEM, NOW), record_of(replace(ITEM, data=b"second"), NOW)
    steps = 4  # write and rename of the input, of the record
    for survived in range(steps):
        folder = CaptureFolder(tmp_path / str(survived))
        folder.prepare()
        folder.write(whole, b"hello")
        with monkeypatch.context() as patch:
            _crash_after(survived, patch)
            with pytest.raises(KeyboardInterrupt):
                folder.write(cut, b"second")
        stray = folder.path / "notes.json"
        stray.write_text("not ours")
        folder.clear_rests()
        assert [r.id for r in folder.records()] == [whole.id]
        names = {file.name for file in folder.path.iterdir()}
        assert names == {f"{whole.id}.txt", f"{whole.id}.json", "notes.json"}


def _crash_after(survived: int, patch: pytest.MonkeyPatch) -> None:
    done = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **named: object) -> object:
            nonlocal done
            if done == survived:
                raise KeyboardInterrupt
            done += 1
            return real(*arguments, **named)

        return step

    patch.setattr(disk, "_write", dying(disk._write))
    patch.setattr(Path, "replace", dying(Path.replace))


def test_a_truncated_input_is_no_capture(tmp_path: Path) -> None:
    folder = CaptureFolder(tmp_path)
    kept = record_of(ITEM, NOW)
    folder.write(kept, b"hello")
    (tmp_path / kept.file_name).write_bytes(b"hel")
    folder.clear_rests()
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    folder = CaptureFolder(tmp_path / "captures")
    folder.prepare()
    folder.write(record_of(ITEM, NOW), b"hello")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    for file in folder.path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptureFolderUnusable, match="OODSCORE_CAPTURE_DIR"):
        CaptureFolder(tmp_path / "file" / "captures").prepare()


# --- redaction


def _jpeg_of_a_phone() -> bytes:
    """4 x 6, the left half white; its EXIF says: turn, and tells a place."""
    pixels = np.zeros((6, 4, 3), np.uint8)
    pixels[:, :2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "Elm Street 12"
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", exif=exif, comment=b"Elm Street 12", quality=95)
    return buffer.getvalue()


def test_the_hook_for_images_keeps_pixels_and_nothing_else() -> None:
    data = _jpeg_of_a_phone()
    assert b"Elm Street" in data
    bare = redacted(replace(ITEM, data=data, media_type="image/jpeg"), without_metadata)
    assert bare is not None
    assert bare.media_type == "image/png"
    assert b"Elm" not in bare.data
    with Image.open(BytesIO(data)) as sent, Image.open(BytesIO(bare.data)) as kept:
        assert kept.size == (6, 4)  # turned
        assert dict(kept.getexif()) == {}
        spec = _image_spec(4, 6)
        np.testing.assert_array_equal(to_model_pixels(sent, spec), to_model_pixels(kept, spec))


def _image_spec(height: int, width: int) -> ImageInput:
    return ImageInput(height=height, width=width, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_the_model_sees_the_same_pixels_without_metadata(mode: str) -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 4), np.uint8), "RGBA")
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (5, 7)).astype(np.uint16))
    else:
        image = image.convert("RGB").convert(mode) if mode != "RGBA" else image
    buffer = BytesIO()
    image.save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    media_type = "image/jpeg" if mode == "CMYK" else "image/png"
    bare = without_metadata(replace(ITEM, data=buffer.getvalue(), media_type=media_type))
    spec = _image_spec(5, 7)
    with Image.open(buffer) as sent, Image.open(BytesIO(bare.data)) as kept:
        np.testing.assert_array_equal(to_model_pixels(sent, spec), to_model_pixels(kept, spec))


def test_a_hook_decides_about_content_only() -> None:
    changed = redacted(ITEM, lambda item: replace(item, data=b"XXX", label="other", score=99.0))
    assert changed == replace(ITEM, data=b"XXX")
    assert redacted(ITEM, lambda _: None) is None


@pytest.mark.parametrize(
    "hook",
    [
        lambda item: 1 / 0,
        lambda item: item.data,
        lambda item: replace(item, data=b""),
        lambda item: replace(item, media_type="image/png"),
        lambda item: replace(item, media_type="text/html"),
    ],
)
def test_a_hook_that_fails_keeps_nothing_and_tells_nothing(
    hook: Callable[[CapturedInput], object],
) -> None:
    with pytest.raises(RedactionFailed) as caught:
        redacted(ITEM, hook)
    assert "hello" not in str(caught.value)
    assert caught.value.__cause__ is None


# --- the store


class Clock:
    now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def bundle(models_dir: Path) -> LoadedBundle:
    return open_repository(models_dir, SessionOptions("cpu", 1)).get("tiny", "1")


def answers_of(bundle: LoadedBundle, images: np.ndarray) -> list[object]:
    plan = make_plan(bundle.manifest, bundle.calibration)
    outputs = bundle.session("forward.onnx").run(images, plan.outputs_of("forward.onnx"))
    return list(decide(outputs, plan))


def offer(store: CaptureStore, bundle: LoadedBundle, images: np.ndarray) -> list[object]:
    inputs: list[Input] = [PixelImage(pixels) for pixels in images]
    answers = answers_of(bundle, images)
    store.offer(bundle.manifest, inputs, answers)
    return answers


def test_the_most_ood_are_kept_and_the_others_are_not(tmp_path: Path, bundle: LoadedBundle) -> None:
    images = np.concatenate([id_images(300, 5), ood_images(60, 6)])
    counted: Counter[str] = Counter()
    store = CaptureStore(CaptureFolder(tmp_path), LIMITS, lambda o: counted.update([o]))
    answers = offer(store, bundle, images)
    store.wait_until_written()
    expected: dict[str, list[float]] = {}
    for answer in answers:
        assert isinstance(answer, Verdict)
        if answer.deciding.decision == "OOD":
            expected.setdefault(answer.label, []).append(answer.deciding.score)
    found: dict[str, list[float]] = {}
    for kept in store.records():
        found.setdefault(kept.label, []).append(kept.score)
        assert kept.detector == "combined"
    assert found == {label: sorted(scores)[:-4:-1] for label, scores in expected.items()}
    assert set(found) <= set(CLASSES)
    assert counted["kept"] - counted["pushed_out"] == store.stored
    for kept in store.records():
        read = store.read(kept.id)
        assert read is not None
        with Image.open(BytesIO(read[1])) as image:
            pixels = np.asarray(image)[..., None]
        (place,) = np.flatnonzero((images == pixels).all(axis=(1, 2, 3)))
        assert answers[place].deciding.score == kept.score  # type: ignore[attr-defined]
    store.close()


def test_a_restart_finds_them_again(tmp_path: Path, bundle: LoadedBundle) -> None:
    store = CaptureStore(CaptureFolder(tmp_path), LIMITS)
    offer(store, bundle, ood_images(20, 7))
    store.close()
    again = CaptureStore(CaptureFolder(tmp_path), LIMITS)
    assert again.records() == store.records() != []
    again.close()
    tighter = CaptureStore(CaptureFolder(tmp_path), replace(LIMITS, per_label=1))
    best = {r.label: r for r in reversed(store.records())}
    assert {r.id for r in tighter.records()} == {r.id for r in best.values()}
    assert len(list(tmp_path.iterdir())) == 2 * len(best)
    tighter.close()


def test_what_is_too_old_goes(tmp_path: Path, bundle: LoadedBundle) -> None:
    clock = Clock()
    store = CaptureStore(CaptureFolder(tmp_path), LIMITS, clock=clock)
    offer(store, bundle, ood_images(5, 8))
    store.wait_until_written()
    clock.now += 86_401
    assert store.records() == []  # not even before the files go
    store.close()
    counted: Counter[str] = Counter()
    CaptureStore(
        CaptureFolder(tmp_path), LIMITS, lambda o: counted.update([o]), clock=clock
    ).close()
    assert counted == {"expired": store.stored}
    assert list(tmp_path.iterdir()) == []


def test_the_same_input_is_kept_once(tmp_path: Path, bundle: LoadedBundle) -> None:
    counted: Counter[str] = Counter()
    store = CaptureStore(
        CaptureFolder(tmp_path), replace(LIMITS, per_label=50), lambda o: counted.update([o])
    )
    picture = ood_images(1, 9)
    offer(store, bundle, np.concatenate([picture] * 4))
    store.close()
    assert counted == {"kept": 1, "duplicate": 3}


def test_a_slow_disk_delays_nobody(tmp_path: Path, bundle: LoadedBundle) -> None:
    """What finds no place in the queue is counted, at once; nothing of it is kept in memory."""
    counted: Counter[str] = Counter()
    waits = threading.Event()

    def slow(item: CapturedInput) -> CapturedInput:
        waits.wait(20)
        return item

    store = CaptureStore(
        CaptureFolder(tmp_path),
        replace(LIMITS, per_label=1000, inputs=1000),
        lambda o: counted.update([o]),
        slow,
    )
    offer(store, bundle, ood_images(600, 10))
    assert counted["dropped"] in (343, 344)  # 256 wait, one may be with the writer
    waits.set()
    store.close()
    assert counted["kept"] == 600 - counted["dropped"]


def test_large_inputs_do_not_push_out_everything(tmp_path: Path, bundle: LoadedBundle) -> None:
    counted: Counter[str] = Counter()
    store = CaptureStore(
        CaptureFolder(tmp_path), replace(LIMITS, size_bytes=1000), lambda o: counted.update([o])
    )
    images = ood_images(1, 11)
    store.offer(bundle.manifest, [EncodedImage(b"x" * 101)], answers_of(bundle, images))
    store.close()
    assert counted == {"too_large": 1}


def test_a_full_disk_and_a_broken_hook_are_counted_and_told_without_the_input(
    tmp_path: Path,
    bundle: LoadedBundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counted: Counter[str] = Counter()

    def broken(item: CapturedInput) -> CapturedInput:
        raise ValueError(f"cannot read {item.data!r}")

    store = CaptureStore(CaptureFolder(tmp_path), LIMITS, lambda o: counted.update([o]), broken)
    offer(store, bundle, ood_images(2, 12))
    store.wait_until_written()
    store.close()
    assert counted == {"failed": 2}
    assert "ValueError" in caplog.records[-1].__dict__["fields"]["why"]
    assert "PNG" not in caplog.text + str(caplog.records[-1].__dict__)

    counted.clear()
    full = CaptureStore(CaptureFolder(tmp_path), LIMITS, lambda o: counted.update([o]))

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_write", no_space)
        offer(full, bundle, ood_images(1, 13))
        full.wait_until_written()
    assert counted == {"failed": 1}
    assert full.stored == 0
    offer(full, bundle, ood_images(1, 13))
    full.close()
    assert counted["kept"] == 1
    assert set(counted) <= set(OUTCOMES)


def test_deleted_means_deleted(tmp_path: Path, bundle: LoadedBundle) -> None:
    store = CaptureStore(CaptureFolder(tmp_path), LIMITS)
    offer(store, bundle, ood_images(1, 14))
    store.wait_until_written()
    (kept,) = store.records()
    assert store.remove(kept.id) is True
    assert store.remove(kept.id) is False
    assert store.read(kept.id) is None
    assert list(tmp_path.iterdir()) == []
    store.close()


# --- the export


def test_labels_become_one_folder_each_whatever_they_hold(tmp_path: Path) -> None:
    labels = ["T-shirt/top", "..", "Ankle boot", "50 %", "a\\b", "naïve\0", ".hidden"]
    folders = [folder_of(label) for label in labels]
    assert len(set(folders)) == len(labels)
    for name in folders:
        (tmp_path / name).mkdir()
        assert (tmp_path / name).parent.samefile(tmp_path)
        assert not name.startswith(".")
    assert folder_of("Ankle boot") == "Ankle boot"


def test_an_export_is_whole_or_not_there(tmp_path: Path) -> None:
    records = [record(1, 1.0), record(2, 2.0)]

    def failing(one: CaptureRecord) -> bytes:
        if one.score == 2.0:
            raise OSError(5, "Input/output error")
        return b"x"

    with pytest.raises(OSError, match="Input/output"):
        export_captures(records, failing, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export_captures(records, lambda r: None if r.score == 1 else b"x", tmp_path / "out") == 1
    (line,) = (tmp_path / "out" / "captures.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == f"a/{records[1].file_name}"
    with pytest.raises(ExportFailed, match="exists"):
        export_captures(records, failing, tmp_path / "out")


def test_captures_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    mixed = [record(1, 1.0), record(2, 1.0).model_copy(update={"model": "other"})]
    with pytest.raises(ExportFailed, match="other, tiny"):
        export_captures(mixed, lambda _: b"x", tmp_path / "out")
    with pytest.raises(ExportFailed, match="nothing"):
        export_captures([], lambda _: b"x", tmp_path / "out")
    assert os.listdir(tmp_path) == []
