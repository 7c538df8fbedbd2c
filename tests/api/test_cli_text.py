"""Texts on the command line: options, .txt and .jsonl files, offline and against a service."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import LiveServer
from pictures import id_png
from tiny_text_bundle import reference_outputs
from typer.testing import CliRunner, Result

from service.cli import app
from service.client import ScoreClient, ServiceRefused
from service.errors import UnknownModel
from service.schemas import FailedResult, ScoreResult

Run = Callable[..., Result]


@pytest.fixture
def run(mixed_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("OODSCORE_MODELS_DIR", str(mixed_dir))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.txt").write_bytes("\ufeffwhat is my\ncard limit ?\r\n".encode())
    (tmp_path / "latin.txt").write_bytes("la carte déclinée".encode("latin-1"))
    lines = ['{"text": "the forecast please", "id": 7}', "", '"visa ticket"', '{"text": ""}']
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    (tmp_path / "known.png").write_bytes(id_png())
    return tmp_path


def test_offline_and_remote_agree_on_files_of_both_modalities(
    run: Run, mixed: LiveServer, folder: Path
) -> None:
    files = [str(folder / name) for name in ("one.txt", "known.png", "many.jsonl")]
    arguments = ("score", *files, "--text", "who wrote faust", "--text", "rain", "--json")
    offline, remote = run(*arguments), run(*arguments, "--url", mixed.url)
    assert offline.exit_code == remote.exit_code == 1, offline.output + remote.output
    lines = [json.loads(line) for line in offline.stdout.splitlines()]
    assert lines == [json.loads(line) for line in remote.stdout.splitlines()]
    jsonl = files[2]
    told = [line.get("file") or line["text"] for line in lines]
    assert told == [
        *files[:2],
        f"{jsonl}:1",
        f"{jsonl}:3",
        f"{jsonl}:4",
        "who wrote faust",
        "rain",
    ]
    assert [line["model"]["name"] for line in lines] == ["words", "tiny", *["words"] * 5]
    assert lines[4]["error"]["code"] == "text_unreadable"
    assert [lines[i]["label"] for i in (0, 2, 3)] == ["card", "weather", "travel"]
    assert [lines[i]["decision"] for i in (1, 5, 6)] == ["ID", "OOD", "ID"]
    expected = reference_outputs(["what is my card limit ?"])["score/combined"]
    assert lines[0]["score"] == pytest.approx(float(expected[0]), abs=1e-5)


@pytest.mark.parametrize("remote", [False, True])
def test_lines_for_people(run: Run, mixed: LiveServer, folder: Path, remote: bool) -> None:
    where = ["--url", mixed.url] if remote else []
    texts = ["--text", "rain " * 20, "--text", "my\ncard"]
    result = run("score", str(folder / "latin.txt"), *texts, *where)
    assert result.exit_code == 1
    bad, long, short = result.stdout.splitlines()
    assert bad.startswith(f"{folder / 'latin.txt'}  ERROR  text_unreadable")
    assert "a byte that was not UTF-8" in bad
    assert long.startswith('"rain rain')
    assert long.endswith("(only its beginning was read)")
    assert short.startswith('"my\\ncard"  ID  card (')


def test_nothing_to_score_is_wrong_usage(run: Run) -> None:
    result = run("score")
    assert result.exit_code == 2
    assert "give files or --text" in result.output


@pytest.mark.parametrize("line", ["no json", "7", '{"txt": "rain"}', '{"text": null}', "[" * 9999])
def test_a_line_without_a_text_is_named_before_anything_is_scored(
    run: Run, tmp_path: Path, line: str
) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(f'"rain"\n{line}\n')
    result = run("score", str(file))
    assert result.exit_code == 2
    assert "q.jsonl:2" in re.sub(r"[\s│]", "", result.output)  # the box breaks long lines
    assert "rain  " not in result.output


def test_many_texts_keep_their_order(run: Run, mixed: LiveServer, tmp_path: Path) -> None:
    words = ["rain", "card", "visa"]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(json.dumps(words[index % 3]) for index in range(150)))
    result = run("score", str(file), "--url", mixed.url, "--json")
    labels = [json.loads(line)["label"] for line in result.stdout.splitlines()]
    assert labels == [("weather", "card", "travel")[index % 3] for index in range(150)]


def test_a_named_model_answers_both_modalities(run: Run, folder: Path) -> None:
    files = [str(folder / name) for name in ("known.png", "one.txt")]
    lines = run("score", *files, "--model", "words").stdout.splitlines()
    assert "ERROR  wrong_modality" in lines[0]
    assert "  card (" in lines[1]


def test_defaults_are_the_services(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OODSCORE_DEFAULT_TEXT_MODEL", "nope")
    assert isinstance(run("score", "--text", "rain").exception, UnknownModel)
    assert run("score", "--text", "rain", "--model", "words").exit_code == 0


def test_models_commands_know_texts(run: Run) -> None:
    assert "words  version 1  text  3 classes" in run("models", "list").stdout
    verified = run("models", "verify", "words")
    assert (verified.exit_code, verified.stdout) == (0, "words  version 1  ok\n")
    shown = run("models", "show", "words").stdout
    assert "input      text, at most 12 tokens, tokenizer.json with 26 ids" in shown


def test_the_client_scores_texts(mixed: LiveServer) -> None:
    with ScoreClient(mixed.url) as client:
        first, second = client.score_texts(["rain " * 20, "\ud83d"]).results
        assert isinstance(first, ScoreResult)
        assert first.truncated is True
        assert isinstance(second, FailedResult)
        with pytest.raises(ServiceRefused, match="text_unreadable"):
            client.score_texts([" "])
        assert {model.modality for model in client.models()} == {"image", "text"}
