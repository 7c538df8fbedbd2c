"""Data sets into tables: `oodscore score --out` against /score, and what a second run does."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_runs import BulkRunner, assert_same, bulk_runner, online
from live_server import LiveServer
from pictures import id_png, npy, ood_png
from tiny_bundle import id_images, publish_tiny_bundle
from tiny_text_bundle import id_texts, ood_texts
from typer.testing import CliRunner

from service.bulk import store
from service.cli import app


@pytest.fixture
def bulk(tmp_path: Path, mixed_dir: Path, monkeypatch: pytest.MonkeyPatch) -> BulkRunner:
    return bulk_runner(tmp_path, mixed_dir, monkeypatch)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Seven files in two folders; number 2 is cut."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for index in range(6):
        (folder / f"{index}.png").write_bytes(id_png(index) if index % 2 else ood_png(index))
    (folder / "2.png").write_bytes(id_png()[:40])
    (folder / "more" / "last.png").write_bytes(id_png(9))
    (folder / "notes.md").write_text("no input")
    (folder / ".hidden.png").write_bytes(id_png())
    return folder


def test_images_score_as_online_to_the_bit(
    bulk: BulkRunner, mixed: LiveServer, photographs: Path
) -> None:
    run = bulk(photographs, "--partition-rows", 3)
    assert run.status == 1, run.printed  # one is cut
    assert run.partitions == [0, 1, 2]
    files = [photographs / f"{index}.png" for index in range(6)]
    files.append(photographs / "more" / "last.png")
    assert [row["index"] for row in run.rows] == list(range(7))
    assert [row["file"] for row in run.rows] == [str(file) for file in files]
    for row, file in zip(run.rows, files, strict=True):
        assert_same(row, online(mixed, file.read_bytes(), "image/png"))
    assert [row["error_code"] for row in run.rows] == [None, None, "image_unreadable", *[None] * 4]
    assert {row["decision"] for row in run.rows} == {"ID", "OOD", None}
    assert "7 inputs: 2 OOD, 1 failed" in run.printed
    assert "left out of the folders: 1 .md" in run.printed
    assert not list(run.out.parent.glob("*.parts"))


def test_texts_score_as_online_to_the_bit(bulk: BulkRunner, mixed: LiveServer) -> None:
    """Of lengths that would be padded together, on a graph on demand as well."""
    texts = [*id_texts(20, 3), *ood_texts(10, 3), "rain " * 40, "", "a"]
    file = bulk.folder / "questions.jsonl"
    file.write_text("\n\n".join(json.dumps({"id": 1, "text": text}) for text in texts))
    run = bulk(file, "--detectors", "energy,mc_dropout", "--id-acceptance", 0.9)
    assert run.status == 1
    assert [(row["file"], row["row"]) for row in run.rows] == [
        (str(file), index) for index in range(33)
    ]
    for row, text in zip(run.rows, texts, strict=True):
        query = "?detectors=energy,mc_dropout&id_acceptance=0.9"
        body = json.dumps({"inputs": [{"text": text}]}).encode()
        assert_same(row, online(mixed, body, "application/json", query))
    assert run.rows[30]["truncated"] is True


def test_tables_and_arrays_hold_images(
    bulk: BulkRunner, mixed: LiveServer, photographs: Path
) -> None:
    pngs = [id_png(1), ood_png(2), id_png(3), b"no image", None]
    images = id_images(3, 8)
    np.save(bulk.folder / "rows.npy", images)
    pq.write_table(
        pa.table({"image": pngs, "more": range(5)}), bulk.folder / "plain.parquet", row_group_size=2
    )
    nested = [{"bytes": png, "path": None} for png in pngs[:2]]
    pq.write_table(pa.table({"image": nested}), bulk.folder / "nested.parquet")
    with (bulk.folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["label", "file"], ["a", "photographs/1.png"], ["b", "photographs/none.png"]]
        )
    names = ["rows.npy", "plain.parquet", "nested.parquet", "list.csv"]
    run = bulk(*[bulk.folder / name for name in names], "--partition-rows", 2)
    assert run.status == 1
    scored = [online(mixed, npy(images[i : i + 1]), "application/x-npy") for i in range(3)]
    scored += [online(mixed, png or b"", "image/png") for png in pngs[:4]]
    scored.append({"error_code": "record_unreadable"})
    scored += [online(mixed, png or b"", "image/png") for png in pngs[:2]]
    scored.append(online(mixed, (photographs / "1.png").read_bytes(), "image/png"))
    scored.append({"error_code": "file_unreadable"})
    assert len(run.rows) == len(scored)
    for row, cells in zip(run.rows, scored, strict=True):
        assert_same(row, cells)
    assert [row["row"] for row in run.rows] == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 0, 1]


def test_a_stopped_run_goes_on(bulk: BulkRunner, photographs: Path) -> None:
    whole = bulk(photographs, out="whole.parquet")
    bulk.engine.dies_at = 2
    arguments = (photographs, "--partition-rows", 2)
    stopped = bulk(*arguments)
    assert (stopped.status, stopped.partitions) == (1, [0, 1])
    assert "the same command goes on from here" in stopped.printed
    assert not stopped.out.exists()
    # as if it had been killed while it wrote: nothing of that is believed
    parts = stopped.out.with_name("scores.parquet.parts")
    (parts / ".part-000002.parquet.tmp").write_bytes(b"half")
    pq.write_table(pq.read_table(parts / "part-000001.parquet")[:1], parts / "part-000001.parquet")
    bulk.engine.dies_at = None
    again = bulk(*arguments)
    assert again.partitions == [1, 2, 3]
    assert "(4 partitions, 1 of them there already" in again.printed
    assert again.rows == whole.rows
    assert not parts.exists()
    third = bulk(*arguments)
    assert (third.status, third.partitions) == (1, [])
    assert third.rows == whole.rows


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--detectors", "energy"], 'detectors was null, is ["energy"]'),
        (["--id-acceptance", "0.9"], "id_acceptance was null, is 0.9"),
        (["--batch", "2"], "batch was 1, is 2"),
        (["--partition-rows", "3"], "partitions was 4, is 3"),
    ],
)
def test_other_settings_are_not_mixed_in(
    bulk: BulkRunner, photographs: Path, finished: bool, changed: list[str], told: str
) -> None:
    bulk.engine.dies_at = None if finished else 2
    first = bulk(photographs, "--partition-rows", 2)
    bulk.engine.dies_at = None
    refused = bulk(photographs, "--partition-rows", 2, *changed)
    assert (refused.status, refused.partitions) == (2, [])
    words = " ".join(refused.printed.replace("│", " ").split())
    assert told in words, words
    assert "--restart" in words
    restarted = bulk(photographs, "--partition-rows", 2, *changed, "--restart")
    assert restarted.partitions[0] == 0
    assert len(restarted.rows) == 7
    assert restarted.out == first.out


def test_another_bundle_or_other_inputs_are_not_mixed_in(
    bulk: BulkRunner, photographs: Path
) -> None:
    models = bulk.folder / "models"
    shutil.copytree(bulk.models_dir, models)
    bulk.models_dir = models
    assert len(bulk(photographs).rows) == 7
    (photographs / "0.png").write_bytes(id_png(77))
    refused = bulk(photographs)
    assert refused.status == 2
    assert "inputs_sha256" in refused.printed
    assert len(bulk(photographs, "--restart").rows) == 7
    publish_tiny_bundle(models, "tiny", "2", seed=2)
    refused = bulk(photographs)
    assert refused.status == 2
    assert "digest" in refused.printed


def test_a_foreign_file_is_never_overwritten(bulk: BulkRunner, photographs: Path) -> None:
    pq.write_table(pa.table({"precious": [1]}), bulk.folder / "mine.parquet")
    for more in ([], ["--restart"]):
        refused = bulk(photographs, *more, out="mine.parquet")
        assert refused.status == 2
        assert pq.read_table(bulk.folder / "mine.parquet").column_names == ["precious"]


def test_two_runs_do_not_share_an_output(bulk: BulkRunner, photographs: Path) -> None:
    bulk.engine.dies_at = 1
    out = bulk(photographs, "--partition-rows", 2).out
    with (out.with_name(f"{out.name}.parts") / "lock").open("w") as held:
        store._lock(held.fileno(), out)
        refused = bulk(photographs, "--partition-rows", 2)
    assert (refused.status, refused.partitions) == (2, [])
    assert "another run" in refused.printed


def test_a_partition_that_an_engine_loses_is_missed(bulk: BulkRunner, photographs: Path) -> None:
    bulk.engine.loses = 1
    run = bulk(photographs, "--partition-rows", 2)
    assert run.status == 1
    assert "no worker gave back partitions 1" in run.printed
    assert not run.out.exists()
    bulk.engine.loses = None
    assert bulk(photographs, "--partition-rows", 2).partitions == [1]


def test_a_batch_keeps_every_row(bulk: BulkRunner, photographs: Path) -> None:
    alone, together = bulk(photographs), bulk(photographs, "--batch", 4, out="batch.parquet")
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one["decision"] == other["decision"]
        if one["decision"]:
            assert one["combined_score"] == pytest.approx(other["combined_score"], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--json"], "--out does not go with --json"),
        (["--cluster", "tcp://127.0.0.1:1"], "--engine dask or --engine ray"),
        (["--column", "nothing"], "column 'nothing'"),
        (["--model", "words"], "nothing to score"),
        (["--detectors", "odd"], "no detector 'odd'"),
    ],
)
def test_wrong_wishes_are_refused_before_anything_is_scored(
    bulk: BulkRunner, photographs: Path, arguments: list[str], told: str
) -> None:
    if "--column" in arguments:
        photographs = bulk.folder / "table.csv"
        photographs.write_text("a,b\n1,2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "400")
        refused = bulk(photographs, *arguments)
    assert refused.status in (1, 2)
    assert refused.partitions == []
    if refused.printed:  # others are told by main()
        assert told in refused.printed


def test_a_folder_needs_out(bulk: BulkRunner, photographs: Path) -> None:

    result = CliRunner().invoke(app, ["score", str(photographs)])
    assert result.exit_code == 2
    assert "scored with --out" in result.output


def test_a_place_that_cannot_be_written_is_told(bulk: BulkRunner, photographs: Path) -> None:
    (bulk.folder / "taken.txt").write_text("a note")
    run = bulk(photographs, out="taken.txt/scores.parquet")
    assert run.status == 1
    assert run.printed.startswith("error: [Errno 20] Not a directory")
    assert "taken.txt" in run.printed
