"""oodscore-train acquire: rounds of questions and answers, and the commands of its page."""

import csv
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_models import trained_sorter, write_photos, write_weights
from PIL import Image
from tiny_text_bundle import INTENTS, id_texts, ood_texts
from toy import digits
from typer.testing import CliRunner

from training.active import ask
from training.active.ask import COLUMNS, Order
from training.active.pool import content_id, read_image_pool, read_text_pool
from training.active.state import OOD, State
from training.cli import app
from training.config import OutliersConfig, load_config
from training.data import DataError
from training.fit.build import FitRequest, run_config
from training.fit.networks import ImageFlags, NetworkFlags, network_of
from training.pipeline import run

PAGE = (Path(__file__).parents[2] / "docs" / "active-learning.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
TEXT_CONFIG = """
name = "intents"
description = "three intents"
modality = "text"
backbone = "gru"
backbone_options = { embedding = 12, hidden = 16 }
primary = "msp"
[text]
max_tokens = 24
tokenizer = { kind = "word", min_count = 1 }
[optimiser]
name = "adamw"
lr = 1e-2
epochs = 2
batch_size = 32
[data]
dev_count = 60
cal_count = 100
test_count = 60
train = [{ source = "jsonl", path = "FOLDER/train.jsonl" }]
test_ood = {}
[[detectors]]
name = "msp"
"""


def stripes(seed: int) -> np.ndarray:
    """Something that is no digit: diagonal stripes of some width and phase."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:28, :28]
    width, phase = rng.uniform(1.5, 2.5), rng.uniform(0, 6)
    return ((np.sin((rows + columns) / width + phase) > 0) * 255).astype(np.uint8)


def write_pool(folder: Path, id_count: int = 60, ood_count: int = 60) -> dict[str, str]:
    """Images in sub-folders as an export of captures has them -> id -> what each is."""
    pixels, labels = digits()
    truth: dict[str, str] = {}
    for index in range(max(id_count, ood_count)):
        sides = []
        if index < id_count:
            sides.append((pixels[1450 + index, :, :, 0], str(labels[1450 + index])))
        if index < ood_count:
            sides.append((stripes(index), OOD))
        for image, answer in sides:
            file = folder / str(index % 3) / f"{answer}-{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
            truth[content_id(file.read_bytes())] = answer
    lines = [json.dumps({"id": key, "label": "3"}) for key in truth]
    (folder / "captures.jsonl").write_text("\n".join(lines))
    return truth


def answer(table: Path, reply: Callable[[dict[str, str]], str]) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["answer"] = reply(row)
    with table.open("w", encoding="utf-8-sig", newline="") as stream:  # as a spreadsheet saves it
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small classifier, its photos, and a pool half of which is stripes."""
    folder = tmp_path_factory.mktemp("shop")
    write_weights(trained_sorter(), folder / "sorter.safetensors")
    write_photos(folder / "photos")
    images = ImageFlags((28, 28), (0.3,), (0.35,), None, None)
    flags = NetworkFlags(str(folder / "sorter.safetensors"), {}, (), images, None)
    config, roles = run_config(
        FitRequest(
            name="sorter",
            network=network_of("own_models:Sorter", flags),
            data=str(folder / "photos"),
            held_out=None,
            test=None,
            ood={},
            columns={},
            taps=None,
            detectors=["msp", "energy"],
            id_acceptance=0.95,
            seed=0,
        )
    )
    run(config, folder / "models", folder / "runs", roles)
    return folder


@pytest.fixture
def order(shop: Path, tmp_path: Path) -> Order:
    write_pool(tmp_path / "review")
    return Order(shop / "models" / "sorter" / "1", tmp_path / "review", tmp_path / "acquire", 10)


def test_the_commands_of_the_page(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = write_pool(tmp_path / "review")
    for name in ("models", "photos"):
        shutil.copytree(shop / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    contaminants: list[int] = []
    for number, block in enumerate((BLOCKS[0], BLOCKS[1], BLOCKS[2]), start=1):
        (command,) = block
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{result.output}{result.exception!r}"
        table = Path(result.stdout.strip())
        assert str(table) == f"acquire/round-{number:03d}/ask.csv"
        rows = answer(table, lambda row: truth[row["id"]])
        assert len(rows) == 12
        contaminants.append(sum(row["answer"] == OOD for row in rows))
        (explained,) = re.findall(r"^\| column \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
        assert set(re.findall(r"`(\w+)`", explained)) - {"OOD", "skip", "inputs"} == {*COLUMNS}
        with Image.open(table.parent / "sheet.png") as sheet:
            assert np.asarray(sheet.convert("L")).std() > 10
        for row in rows:
            with Image.open(Path("acquire") / row["input"]) as image:
                assert image.size == (28, 28)
    assert contaminants[0] >= 4, "the strangest come first"
    assert contaminants[1] + contaminants[2] <= 4, "and what was rejected is known then"
    study = shlex.split(BLOCKS[3][0])[1:]
    assert study[:2] == ["benchmark", "active-learning"]


def test_the_outliers_of_the_page_are_a_config() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    values = tomllib.loads(block)
    assert OutliersConfig.model_validate(values["outliers"]).sources["rejected"]


def test_answers_are_sorted_out_and_never_asked_again(order: Order) -> None:
    truth = write_pool(order.pool)
    doubled = next(order.pool.rglob("*.png"))
    shutil.copy(doubled, order.pool / "again.png")
    (order.pool / "broken.png").write_bytes(b"no image")
    first = ask.acquire(order)
    rows = answer(first / "ask.csv", lambda row: truth[row["id"]])
    assert len({row["id"] for row in rows}) == len(rows) == 10
    for file in list(order.pool.rglob("*.png")):  # the pool is moved: contents count
        file.rename(order.pool / f"moved-{file.parent.name}-{file.name}")
    second = ask.acquire(order)
    with (second / "ask.csv").open() as stream:
        again = {row["id"] for row in csv.DictReader(stream)}
    assert not again & {row["id"] for row in rows}
    state = State.of(order.state, "image")
    assert [r.open for r in state.rounds] == [False, True]
    assert {a.id: a.answer for a in state.rounds[0].asked} == {r["id"]: r["answer"] for r in rows}
    rejected = {content_id(f.read_bytes()) for f in (order.state / "rejected").iterdir()}
    assert rejected == {row["id"] for row in rows if row["answer"] == OOD}
    labelled = {
        content_id(f.read_bytes()): f.parent.name for f in (order.state / "labelled").rglob("*.png")
    }
    assert labelled == {row["id"]: row["answer"] for row in rows if row["answer"] != OOD}
    with (order.state / "labelled.csv").open() as stream:
        table = {row["image"]: row["label"] for row in csv.DictReader(stream)}
    assert {Path(image).stem: label for image, label in table.items()} == labelled
    assert not list(order.state.rglob("*.tmp"))


def test_a_part_of_the_answers_is_enough_and_skip_is_one(order: Order) -> None:
    first = ask.acquire(order)
    replies = {"1": "skip", "2": OOD, "3": "7"}
    rows = answer(first / "ask.csv", lambda row: replies.get(row["rank"], " "))
    second = ask.acquire(order)
    state = State.of(order.state, "image")
    assert state.settled_ids() == {row["id"] for row in rows[:3]}
    assert len(list((order.state / "rejected").iterdir())) == 1
    with (second / "ask.csv").open() as stream:
        assert not state.settled_ids() & {row["id"] for row in csv.DictReader(stream)}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "waits for its answers; write a class, OOD or skip"),
        ("eleven", r"line 2: the answer 'eleven' is no class of this model \(0, 1, 2"),
    ],
)
def test_a_wrong_answer_changes_nothing(order: Order, reply: str, message: str) -> None:
    first = ask.acquire(order)
    answer(first / "ask.csv", lambda row: reply if row["rank"] == "1" else reply and "3")
    before = (order.state / "state.json").read_bytes()
    with pytest.raises(DataError, match=message):
        ask.acquire(order)
    assert (order.state / "state.json").read_bytes() == before
    assert not (order.state / "labelled").exists()


def test_a_table_of_another_round_or_form_is_refused(order: Order) -> None:
    table = ask.acquire(order) / "ask.csv"
    good = table.read_text()
    table.write_text(good.replace(",", ";"))
    with pytest.raises(DataError, match="must name the columns id and answer, with commas"):
        ask.acquire(order)
    lines = good.splitlines(keepends=True)
    table.write_text("".join([*lines, lines[1]]))
    with pytest.raises(DataError, match="stands twice"):
        ask.acquire(order)
    table.write_text(good.replace(lines[1].split(",")[1], "f" * 32))
    with pytest.raises(DataError, match="was not asked in this round"):
        ask.acquire(order)
    table.unlink()
    with pytest.raises(DataError, match=r"is not there, and round 1 waits"):
        ask.acquire(order)


def test_a_call_that_is_cut_off_leaves_the_last_whole_state(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask.acquire(order)
    truth = write_pool(order.pool)
    answer(first / "ask.csv", lambda row: truth[row["id"]])

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ask, "draw_sheet", cut_off)
        with pytest.raises(KeyboardInterrupt):
            ask.acquire(order)
    state = State.of(order.state, "image")
    assert [r.open for r in state.rounds] == [False]
    assert not (order.state / "round-002").exists()
    with monkeypatch.context() as patch:  # after the folder, before the state knows of it
        patch.setattr(State, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            ask.acquire(order)
    assert (order.state / "round-002").exists()
    ask.acquire(order)
    assert [r.number for r in State.of(order.state, "image").rounds] == [1, 2]
    whole = sorted(p.name for p in (order.state / "round-002").iterdir())
    assert whole == ["ask.csv", "inputs", "sheet.png"]


def test_a_pool_without_anything_to_ask_is_said(order: Order, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match="holds no image"):
        ask.acquire(Order(order.bundle, tmp_path / "empty", order.state))
    (tmp_path / "empty" / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="holds no readable input"):
        ask.acquire(Order(order.bundle, tmp_path / "empty", order.state))
    with pytest.raises(ValueError, match="at least one input"):
        ask.acquire(Order(order.bundle, order.pool, order.state, 0))
    with pytest.raises(ValueError, match="no such bundle folder"):
        ask.acquire(Order(tmp_path / "none", order.pool, order.state))


def test_a_state_that_is_none_or_of_texts_is_refused(order: Order) -> None:
    order.state.mkdir()
    (order.state / "state.json").write_text("{}")
    with pytest.raises(DataError, match="is no state of acquire"):
        ask.acquire(order)
    State(modality="text").write(order.state)
    with pytest.raises(DataError, match="belongs to a model of texts, this one reads images"):
        ask.acquire(order)


def test_a_table_of_images_is_a_pool(order: Order, tmp_path: Path) -> None:
    items, _ = read_image_pool(order.pool, order.state)
    names = [item.name for item in items[:5]]
    table = tmp_path / "list.csv"
    table.write_text("image\n" + "".join(f"review/{name}\n" for name in names) + "gone.png\n")
    listed, bad = read_image_pool(table, order.state)
    assert [item.id for item in listed] == [item.id for item in items[:5]]
    assert [one.name for one in bad] == ["gone.png"]
    table.write_text("file\nx\n")
    with pytest.raises(DataError, match="entry 1: has no image file in 'image'"):
        read_image_pool(table, order.state)


def test_texts_are_asked_about_in_the_same_way(tmp_path: Path) -> None:
    known = list(dict.fromkeys(id_texts(700, 1)))
    lines = [json.dumps({"text": text, "label": INTENTS[_intent(text)]}) for text in known[:450]]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "run.toml").write_text(TEXT_CONFIG.replace("FOLDER", str(tmp_path)))
    published = run(load_config(tmp_path / "run.toml"), tmp_path / "models", tmp_path / "runs")
    assert published is not None
    review = tmp_path / "review"
    review.mkdir()
    texts = [*known[450:480], *ood_texts(30, 2), "=2+2 weather", "   "]
    captured: list[dict[str, Any]] = [{"text": text, "label": "card"} for text in texts]
    (review / "captures.jsonl").write_text("\n".join(map(json.dumps, captured)))
    items, _ = read_text_pool(review)
    assert len(items) == len(set(texts))
    order = Order(published.path, review, tmp_path / "acquire", count=len(items))
    table = ask.acquire(order) / "ask.csv"
    with table.open(newline="") as stream:
        cells = {row["input"] for row in csv.DictReader(stream)}
    assert "'=2+2 weather" in cells, "no text is a formula in a spreadsheet"
    page = (table.parent / "sheet.html").read_text()
    assert "=2+2 weather" in page
    rows = answer(table, lambda row: INTENTS[0] if int(row["rank"]) % 2 else OOD)
    with pytest.raises(DataError, match="holds no readable input that has not been answered"):
        ask.acquire(order)
    labelled = (tmp_path / "acquire" / "labelled.jsonl").read_text().splitlines()
    rejected = (tmp_path / "acquire" / "rejected.jsonl").read_text().splitlines()
    assert len(labelled) + len(rejected) == len(rows) == len(items) - 1  # white space is no text
    assert {json.loads(line)["label"] for line in labelled} == {INTENTS[0]}


def _intent(text: str) -> int:
    """The commonest one among a text's words."""
    from tiny_text_bundle import _WORDS  # pyright: ignore[reportPrivateUsage]

    words = text.split()
    return int(np.argmax([sum(word in own for word in words) for own in _WORDS]))
