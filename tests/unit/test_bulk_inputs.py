"""What is counted is what is read: records of CSV, JSON lines, Parquet and folders."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bulk import InputLimits, InputsUnusable, Job, find_inputs, modality_of, read_partition
from service.bulk.records import csv_records, json_records
from service.bundle import BundleRef, Modality

_LIMITS = InputLimits(max_image_bytes=1000, max_pixels=1000, max_text_characters=1000)


def job(folder: Path, modality: Modality) -> Job:
    ref = BundleRef("tiny", 1, folder)
    return Job(str(folder), ref, "", modality, None, None, False, "cpu", 1, _LIMITS)


def read(
    paths: list[Path], modality: Modality, rows: int, column: str | None = None
) -> list[dict[str, object]]:
    data = find_inputs(paths, modality, column, rows)
    assert max(partition.count for partition in data.partitions) <= rows
    found = [
        row
        for partition in data.partitions
        for table in read_partition(job(Path(), modality), partition)
        for row in table.to_pylist()
    ]
    assert [row["index"] for row in found] == list(range(data.count))
    return found


CELLS = st.text(st.sampled_from('ab,"\n\r é;'), max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(CELLS, CELLS.map(lambda cell: f"x{cell}")), min_size=1, max_size=7))
def test_any_csv_is_cut_between_its_records(rows: list[tuple[str, str]]) -> None:
    """Cut anywhere, the pieces read as the whole; quotes, commas and line ends inside cells."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    body = text.getvalue().encode()
    whole = list(csv_records(io.BytesIO(body)))
    assert [tuple(record.value) for record in whole] == rows
    place = 0
    for number, record in enumerate(whole):
        rest = [each.value for each in csv_records(io.BytesIO(body[place:]))]
        assert [tuple(cells) for cells in rest] == rows[number:]
        place += record.size


def test_json_lines_are_counted_as_they_are_read() -> None:
    body = b'\n\n{"text": "a"}\r\n"b"\n{broken\n\n   \n17\n"last"'
    values = [record.value for record in json_records(io.BytesIO(body))]
    assert values[:2] == [{"text": "a"}, "b"]
    assert isinstance(values[2], ValueError)
    assert values[3:] == [17, "last"]
    counted = list(json_records(io.BytesIO(body), parse=False))
    assert len(counted) == len(values)
    assert sum(record.size for record in counted) == len(body)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_tables_of_texts_give_every_record_once(tmp_path: Path, rows: int) -> None:
    texts = ["plain", 'with "quotes", commas', "two\nlines", "", "naïve", "last"]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
        file.write("\n7\n")  # an empty line, and a record without the column
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "b.jsonl").write_text("\n".join([*lines, "{", '{"other": 1}']))
    pq.write_table(pa.table({"text": [*texts, None]}), tmp_path / "c.parquet", row_group_size=4)
    found = read([tmp_path / name for name in ("a.csv", "b.jsonl", "c.parquet")], "text", rows)
    assert [row["text"] for row in found] == [*texts, None, *texts, None, None, *texts, None]
    assert Counter(row["problem_code"] for row in found) == {None: 18, "record_unreadable": 4}
    assert [row["row"] for row in found] == [*range(7), *range(8), *range(7)]


def test_an_empty_cell_of_texts_is_a_text(tmp_path: Path) -> None:
    """The model refuses it, with its own code; a missing one is the file's fault."""
    (tmp_path / "a.csv").write_text('text,id\n"",1\n')
    (row,) = read([tmp_path / "a.csv"], "text", 10)
    assert (row["text"], row["problem_code"]) == ("", None)


def test_bytes_that_are_no_unicode_are_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("déclinée".encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes(b'"\\ud800"\n"fine"\n')
    found = read([tmp_path / "a.txt", tmp_path / "b.jsonl"], "text", 10)
    codes = [row["problem_code"] for row in found]
    assert codes == ["text_unreadable", "text_unreadable", None]


def test_a_file_that_vanishes_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").write_bytes(b"y")
    data = find_inputs([tmp_path], "image", None, 10)
    (tmp_path / "a.png").unlink()
    (partition,) = data.partitions
    (table,) = read_partition(job(tmp_path, "image"), partition)
    gone, there = table.to_pylist()
    assert gone["problem_code"] == "file_unreadable"
    assert (there["image"], there["problem_code"]) == (b"y", None)


def test_a_table_that_grows_is_refused(tmp_path: Path) -> None:
    """Its rows would no longer be those that were counted."""
    file = tmp_path / "a.jsonl"
    file.write_text('"a"\n"b"\n')
    data = find_inputs([file], "text", None, 10)
    file.write_text('"a"\n')
    with pytest.raises(InputsUnusable, match="changed while it was scored"):
        list(read_partition(job(tmp_path, "text"), data.partitions[0]))


def test_the_fingerprint_knows_order_names_and_sizes(tmp_path: Path) -> None:
    one, two = tmp_path / "1.txt", tmp_path / "2.txt"
    one.write_text("a")
    two.write_text("b")
    prints = {
        find_inputs(paths, "text", None, 10).fingerprint
        for paths in ([one, two], [two, one], [one], [tmp_path / "1.txt", one])
    }
    one.write_text("aa")
    prints.add(find_inputs([one, two], "text", None, 10).fingerprint)
    assert len(prints) == 5


def test_kinds_of_inputs_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.JPG").write_bytes(b"x")
    (tmp_path / "images" / "captures.jsonl").write_text('{"text": "beside"}')
    (tmp_path / "t.csv").write_text("text\na\n")
    (tmp_path / "f.csv").write_text("file,label\na.png,1\n")
    assert modality_of([tmp_path / "images"], None) == "image"
    assert modality_of([tmp_path / "t.csv"], None) == "text"
    assert modality_of([tmp_path / "f.csv"], None) == "image"
    assert modality_of([tmp_path / "f.csv"], "label") == "text"
    with pytest.raises(InputsUnusable, match="images and texts"):
        modality_of([tmp_path / "images", tmp_path / "t.csv"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputsUnusable, match="nothing to score"):
        modality_of([tmp_path / "empty"], None)
    with pytest.raises(InputsUnusable, match="is no text"):
        find_inputs([tmp_path / "images" / "a.JPG"], "text", None, 10)


@pytest.mark.parametrize("name", ["a.parquet", "a.npy"])
def test_a_damaged_table_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(InputsUnusable, match=name):
        find_inputs([tmp_path / name], "image", None, 10)
