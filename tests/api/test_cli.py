"""The command line, offline and against a service, gives the same answers."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import id_png, ood_png
from rich.console import Console
from tiny_bundle import PERTURBED, id_images, publish_tiny_bundle, write_forward_graph
from typer.testing import CliRunner, Result

from service.api_keys import entry_of, new_secret, parse_entries
from service.bundle import read_manifest, sha256_of, write_manifest
from service.cli import app, progress
from service.client import ServiceRefused
from service.errors import DetectorUnavailable

runner = CliRunner()
Run = Callable[..., Result]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "known.png").write_bytes(id_png())
    (tmp_path / "unknown.png").write_bytes(ood_png())
    np.save(tmp_path / "rows.npy", id_images(3, 95))
    return [str(tmp_path / name) for name in ("known.png", "unknown.png", "rows.npy")]


@pytest.fixture
def run(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("OODSCORE_MODELS_DIR", str(models_dir))

    def run(*arguments: str) -> Result:
        return runner.invoke(app, arguments)

    return run


def test_offline_and_remote_agree(run: Run, server: LiveServer, files: list[str]) -> None:
    offline = run("score", *files, "--json", "--model", "tiny")
    remote = run("score", *files, "--json", "--model", "tiny", "--url", server.url)
    assert offline.exit_code == remote.exit_code == 0, offline.output + remote.output
    lines = [json.loads(line) for line in offline.stdout.splitlines()]
    assert lines == [json.loads(line) for line in remote.stdout.splitlines()]
    assert [line["decision"] for line in lines[:2]] == ["ID", "OOD"]
    assert lines[0]["model"] == {"name": "tiny", "version": "2"}
    assert [line["file"] for line in lines[2:]] == [f"{files[2]}[{index}]" for index in range(3)]


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("neighbours", [0, 2])
def test_an_unreadable_file_is_told_and_fails(
    run: Run, server: LiveServer, files: list[str], tmp_path: Path, remote: bool, neighbours: int
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(id_png()[:30])
    where = ["--url", server.url] if remote else []
    result = run("score", str(bad), *files[:neighbours], *where)
    assert result.exit_code == 1
    assert f"{bad}  ERROR  image_unreadable" in result.stdout
    assert len(result.stdout.splitlines()) == 1 + neighbours


def test_a_detector_on_demand_scores_offline_too(
    run: Run, server: LiveServer, files: list[str]
) -> None:
    arguments = ("score", *files, "--json", "--model", "other", "--detectors", "odin,energy")
    offline, remote = run(*arguments), run(*arguments, "--url", server.url)
    assert offline.exit_code == remote.exit_code == 0, offline.output + remote.output
    lines = [json.loads(line) for line in offline.stdout.splitlines()]
    assert lines == [json.loads(line) for line in remote.stdout.splitlines()]
    assert [list(line["detectors"]) for line in lines] == [["odin", "energy"]] * 5
    assert {line["detector"] for line in lines} == {"odin"}
    (left_out, *_) = run("score", files[0], "--json", "--model", "other").stdout.splitlines()
    assert "odin" not in json.loads(left_out)["detectors"]


@pytest.fixture
def broken_odin(tmp_path: Path) -> str:
    """A folder with one bundle whose graph on demand gives no `score/odin`; signed and sealed."""
    repository = tmp_path / "models"
    ref = publish_tiny_bundle(repository, "whole", "1", seed=7, everything=True)
    write_forward_graph(ref.path / PERTURBED)
    manifest = read_manifest(ref.path)
    files = manifest.files | {PERTURBED: sha256_of(ref.path / PERTURBED)}
    write_manifest(ref.path, manifest.model_copy(update={"files": files}))
    return str(repository)


def test_a_broken_graph_is_told_once_offline(
    run: Run, broken_odin: str, files: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fine = run("score", *files, "--models-dir", broken_odin)
    assert fine.exit_code == 0, fine.output
    result = run("score", *files, "--models-dir", broken_odin, "--detectors", "energy,odin")
    assert isinstance(result.exception, DetectorUnavailable)
    assert result.stdout == ""
    (message,) = [record.getMessage() for record in caplog.records]
    assert "has no output 'score/odin'" in message


def test_verify_opens_every_graph(run: Run, broken_odin: str) -> None:
    """Digests, seal and all that `serve` opens are right."""
    result = run("models", "verify", "--models-dir", broken_odin)
    assert result.exit_code == 1
    assert "REFUSED" in result.stdout
    assert f"whole/1/{PERTURBED}: has no output 'score/odin'" in result.stdout


def test_show_prints_graphs_on_demand_and_the_price_of_int8(run: Run, tmp_path: Path) -> None:
    publish_tiny_bundle(tmp_path / "m", "whole", "1", seed=7, everything=True)
    shown = run("models", "show", "whole", "--models-dir", str(tmp_path / "m")).stdout
    assert f"cost gradient, on demand: {PERTURBED}" in shown
    price = shown[shown.index("variant int8") :].splitlines()
    assert "OODSCORE_INT8_MODELS" in price[0]
    assert "  speed: 0.90x at batch 1, 2.25x at batch 32 (above 1 is faster)" in price
    assert "  accuracy: 100.00% -> 98.75%" in price
    where = price.index("  AUROC against grey")
    assert price[where + 1 : where + 4] == [
        f"    {detector}: 99.00% -> 98.00%" for detector in ("combined", "energy", "msp")
    ]
    assert price[-1].startswith("  OOD above: combined ")
    assert "int8" not in run("models", "show", "tiny").stdout


def test_groups_larger_than_one_request_keep_their_order(
    run: Run, server: LiveServer, files: list[str]
) -> None:
    many = [files[index % 2] for index in range(37)]
    result = run("score", *many, "--url", server.url)
    decisions = [line.split()[1] for line in result.stdout.splitlines()]
    assert decisions == [("ID", "OOD")[index % 2] for index in range(37)]


def test_groups_stay_below_the_largest_body(
    run: Run, server: LiveServer, files: list[str], tmp_path: Path
) -> None:
    """16 files of 3 MB would be one refused body of 48 MB."""
    heavy = tmp_path / "heavy.png"
    heavy.write_bytes(id_png() + bytes(3_000_000))
    before = server_requests(server)
    result = run("score", *[str(heavy)] * 16, "--url", server.url)
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["ID"] * 16
    assert server_requests(server) == before + 2  # 8 and 8: none refused and sent again


def server_requests(server: LiveServer) -> float:
    server.client.get("/livez")  # behind the request counted last
    value = server.runtime.metrics.registry.get_sample_value
    labels = ({"route": "/score", "status": status} for status in ("200", "413"))
    return sum(value("oodscore_requests_total", label) or 0 for label in labels)


def test_a_refused_group_is_sent_file_by_file(
    run: Run, models_dir: Path, files: list[str], tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(id_png() + bytes(20_000))
    with live_server(models_dir, default_image_model="tiny", max_body_bytes=10_000) as small:
        result = run("score", files[0], str(large), files[1], "--url", small.url)
    assert result.exit_code == 1
    lines = [line.split()[:3] for line in result.stdout.splitlines()]
    assert [line[1] for line in lines] == ["ID", "ERROR", "OOD"]
    assert lines[1] == [str(large), "ERROR", "body_too_large:"]


def test_what_no_file_can_help_is_told_once(run: Run, server: LiveServer, files: list[str]) -> None:
    result = run("score", *files[:2], "--model", "nope", "--url", server.url)
    assert isinstance(result.exception, ServiceRefused)
    assert result.exception.code == "unknown_model"


def test_models_commands(run: Run) -> None:
    assert len(run("models", "list").stdout.splitlines()) == 3
    verified = run("models", "verify")
    assert verified.exit_code == 0
    assert verified.stdout.count("ok") == 3
    shown = run("models", "show", "tiny").stdout
    assert "tiny version 2" in shown
    assert "199 calibration scores" in shown


def test_verify_names_the_broken_file(run: Run, models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir, tmp_path / "m")
    (tmp_path / "m" / "tiny" / "1" / "calibration.npz").write_bytes(b"x")
    result = run("models", "verify", "--models-dir", str(tmp_path / "m"))
    assert result.exit_code == 1
    assert "tiny/1/calibration.npz" in result.stdout
    assert result.stdout.count("  ok\n") == 2


@pytest.mark.parametrize(
    "command",
    [
        ["serve"],
        ["score"],
        ["models", "list"],
        ["models", "verify"],
        ["models", "show"],
        ["keys", "new"],
    ],
)
def test_every_command_has_an_example(run: Run, command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: oodscore {' '.join(command)}" in result.stdout


def test_csv_holds_what_json_holds(
    run: Run, server: LiveServer, files: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad, quoted.png"
    bad.write_bytes(b"x")
    inputs = [str(bad), *files]
    for where in ([], ["--url", server.url]):
        arguments = ("score", *inputs, "--model", "tiny", *where)
        rows = list(csv.DictReader(io.StringIO(run(*arguments, "--csv").stdout)))
        told = [json.loads(line) for line in run(*arguments, "--json").stdout.splitlines()]
        assert [row["file"] for row in rows] == [line["file"] for line in told]
        assert rows[0]["error_code"] == "image_unreadable"
        assert rows[0]["decision"] == rows[0]["energy_score"] == ""
        for row, line in zip(rows[1:], told[1:], strict=True):
            assert (row["model"], row["version"]) == ("tiny", "2")
            assert row["decision"] == line["decision"]
            assert float(row["p_value"]) == line["p_value"]
            for name, detector in line["detectors"].items():
                assert float(row[f"{name}_score"]) == detector["score"]
                assert float(row[f"{name}_p_value"]) == detector["p_value"]
            assert row["error_code"] == ""


def test_csv_of_failures_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    result = run("score", str(tmp_path / "bad.png"), "--model", "tiny", "--csv")
    assert result.exit_code == 1
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert row["error_code"] == "image_unreadable"


@pytest.mark.parametrize("more", [["--json"], ["--text", "a text"]])
def test_what_one_table_cannot_hold_is_wrong_usage(
    run: Run, files: list[str], more: list[str]
) -> None:
    assert run("score", files[0], "--csv", *more).exit_code == 2


def test_a_key_comes_from_the_option_or_the_environment(
    run: Run, models_dir: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = new_secret()
    keys = parse_entries([entry_of("app", "score", secret)])
    with live_server(models_dir, default_image_model="tiny", api_keys=keys) as closed:
        without = run("score", files[0], "--url", closed.url)
        assert isinstance(without.exception, ServiceRefused)
        assert without.exception.code == "key_missing"
        assert run("score", files[0], "--url", closed.url, "--api-key", secret).exit_code == 0
        monkeypatch.setenv("OODSCORE_API_KEY", secret)
        assert run("score", files[0], "--url", closed.url).exit_code == 0
        monkeypatch.setenv("OODSCORE_API_KEY", "no key")
        assert run("score", files[0], "--url", closed.url).exit_code == 2


def test_an_array_larger_than_one_request_is_cut(
    run: Run, models_dir: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "many.npy", id_images(40, 95))
    with live_server(models_dir, default_image_model="tiny", max_npy_inputs=16) as small:
        result = run("score", str(tmp_path / "many.npy"), "--url", small.url, "--json")
    assert result.exit_code == 0, result.output
    names = [json.loads(line)["file"] for line in result.stdout.splitlines()]
    assert names == [f"{tmp_path / 'many.npy'}[{index}]" for index in range(40)]


def test_work_that_takes_long_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, counting inputs rather than requests."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, "_QUIET_SECONDS", -1.0)
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=80)
    )
    groups = [[1, 2, 3], [4]]
    assert list(progress.track(groups, "scoring", weigh=len)) == groups
    assert "scoring" in screen.getvalue()
    assert "3/4" in screen.getvalue()
    assert "4/4" in screen.getvalue()
