"""Readers of texts: what files of others look like, and what is said of those that do not fit."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from training.data.input_set import DataError, DataUnavailable
from training.data.text_sources import read_csv, read_fasta, read_jsonl, read_text_folder


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def named(found: object) -> list[str | None]:
    labels: np.ndarray = found.labels  # pyright: ignore
    names: tuple[str, ...] = found.class_names  # pyright: ignore
    return [None if label < 0 else names[label] for label in labels]


def test_csv_with_columns_of_other_names(tmp_path: Path) -> None:
    content = 'id;body;topic\n1;"two\nlines; one ""field""";b\n2;second;a\n3;third;\n'
    path = written(tmp_path / "posts.csv", content)
    found = read_csv("train", path=path, text="body", label="topic", delimiter=";")
    assert found.texts == ('two\nlines; one "field"', "second", "third")
    assert named(found) == ["b", "a", None]
    assert found.class_names == ("a", "b")


def test_csv_of_a_spreadsheet_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "text,label\r\ngrün,1\r\n".encode("utf-8-sig"))
    found = read_csv("train", path=path)
    assert found.texts == ("grün",)
    assert found.class_names == ("1",)


def test_csv_with_a_field_of_a_megabyte(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "text,label\n" + "word " * 200_000 + ",a\n")
    assert len(read_csv("train", path=path).texts[0]) == 1_000_000


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "t", "label": label}) for label in (10, 9, "2")]
    found = read_jsonl("train", path=written(tmp_path / "x.jsonl", "\n".join(lines)))
    assert found.class_names == ("2", "9", "10")
    assert named(found) == ["10", "9", "2"]


def test_jsonl_compressed_and_with_empty_lines(tmp_path: Path) -> None:
    lines = '{"body": "one", "kind": "a"}\n\n{"body": "two", "kind": "b"}\n'
    path = written(tmp_path / "x.jsonl.gz", gzip.compress(lines.encode()))
    assert read_jsonl("train", path=path, text="body", label="kind").texts == ("one", "two")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"text": "a"}\n[1]', {}, "line 2: is no JSON object"),
        ('{"text": "a"}\n{"text": ', {}, "line 2: is not JSON"),
        ('{"text": 5}', {}, "line 1: has no text in 'text'"),
        ('{"body": "a"}', {}, r"line 1: has no text in 'text'; it has \['body'\]"),
        ('{"text": "a"}', {"label": "topic"}, "line 1: has no 'topic'"),
        (b'{"text": "\xff"}', {}, "is not UTF-8"),
    ],
)
def test_jsonl_that_does_not_fit_is_refused(
    tmp_path: Path, content: str | bytes, options: dict[str, str], message: str
) -> None:
    path = written(tmp_path / "x.jsonl", content)
    with pytest.raises(DataError, match=message):
        read_jsonl("train", path=path, **options)


def test_csv_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "body,label\na,b\n")
    with pytest.raises(DataError, match=r"line 2: has no text in 'text'; it has \['body'"):
        read_csv("train", path=path)
    with pytest.raises(DataError, match="is no table"):
        read_csv("train", path=written(tmp_path / "y.csv", 'text,label\n"a"b,c\n'))


@pytest.mark.parametrize(("row", "how"), [("Hello, world,greeting", "more"), ("Hello", "fewer")])
def test_csv_rows_of_another_length_are_refused(row: str, how: str, tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", f"text,label\nfine,a\n{row}\n")
    with pytest.raises(DataError, match=f"line 3: has {how} fields than the 2 columns.*quotes"):
        read_csv("train", path=path)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"text,label\na,b\n", mtime=0)[:-9]],
    ids=["no gzip", "cut off"],
)
def test_what_is_no_whole_gzip_file_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no whole gzip file"):
        read_csv("train", path=written(tmp_path / "x.csv.gz", content))


def test_empty_texts_and_halves_of_surrogate_pairs_are_left_out(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) for text in ("good", " ", "bad \ud83d x", "\U0001f600")]
    found = read_jsonl("train", path=written(tmp_path / "x.jsonl", "\n".join(lines))).readable()
    assert found.texts == ("good", "\U0001f600")


def test_a_folder_of_classes(tmp_path: Path) -> None:
    written(tmp_path / "a" / "1.txt", "one")
    written(tmp_path / "b" / "deep" / "2.txt", "two")
    written(tmp_path / "3.txt", "three")
    written(tmp_path / "b" / "4.md", "no text file")
    written(tmp_path / ".ipynb_checkpoints" / "5.txt", "hidden")
    found = read_text_folder("train", path=str(tmp_path))
    assert dict(zip(found.texts, named(found), strict=True)) == {
        "one": "a",
        "two": "b",
        "three": None,
    }


def test_fasta_of_one_file_and_of_a_folder_of_classes(tmp_path: Path) -> None:
    written(tmp_path / "a.fasta", ">first some words\nACGT\nAC\n\n>second\nTTTTTTTT\n")
    written(tmp_path / "b.fna.gz", gzip.compress(b">x\r\nGGGG\r\nGGGG\r\n"))
    written(tmp_path / "readme.md", "no sequences")
    alone = read_fasta("ood", path=str(tmp_path / "a.fasta"))
    assert alone.texts == ("ACGTAC", "TTTTTTTT")
    assert named(alone) == [None, None]
    cut = read_fasta("train", path=str(tmp_path), read_length=4)
    assert cut.texts == ("ACGT", "TTTT", "TTTT", "GGGG", "GGGG")
    assert named(cut) == ["a", "a", "a", "b", "b"]


def test_fasta_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="starts with a line '>name'"):
        read_fasta("train", path=written(tmp_path / "a.fasta", "ACGT\n>x\nACGT\n"))
    short = written(tmp_path / "b.fasta", ">x\nACGT\n")
    with pytest.raises(DataError, match="holds no sequence of 5 symbols or more"):
        read_fasta("train", path=short, read_length=5)
    with pytest.raises(DataError, match="read_length is 0; at least 1"):
        read_fasta("train", path=short, read_length=0)
    with pytest.raises(DataError, match=r"holds no sequence$"):
        read_fasta("train", path=written(tmp_path / "c.fasta", ">only a name\n"))


@pytest.mark.parametrize("read", [read_csv, read_jsonl, read_text_folder, read_fasta])
def test_what_is_not_there_is_unavailable(tmp_path: Path, read: object) -> None:
    with pytest.raises(DataUnavailable, match=r"train: no f"):
        read("train", path=str(tmp_path / "absent"))  # pyright: ignore
