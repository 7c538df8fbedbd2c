"""Capture for review, from requests to folders that the training reads."""

import json
from collections import Counter
from collections.abc import Generator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import encode, npy
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_refusals import assert_problem
from tiny_bundle import id_images, ood_images
from tiny_text_bundle import ood_texts
from typer.testing import CliRunner

from service.api_keys import entry_of, new_secret, parse_entries
from service.bundle import ImageInput
from service.cli import app, main
from service.client import ServiceRefused
from training.data.readers import SOURCES, TEXT_SOURCES

NPY = {"Content-Type": "application/x-npy"}
SPEC = ImageInput(height=8, width=8, channels=1, mean=(0.0,), std=(1.0,))
SECRETS = {name: new_secret() for name in ("web", "prometheus", "ops")}
SCOPES = {"web": "score", "prometheus": "metrics", "ops": "admin"}
ENTRIES = [entry_of(name, SCOPES[name], secret) for name, secret in SECRETS.items()]
runner = CliRunner()


def written(server: LiveServer) -> None:
    assert server.runtime.captures is not None
    server.runtime.captures.wait_until_written()


def test_the_export_is_an_image_folder_that_training_reads(
    models_dir: Path, tmp_path: Path
) -> None:
    """The pixels the service saw, under the labels it predicted, whichever body brought them."""
    kept, target = tmp_path / "kept", tmp_path / "review"
    images = np.concatenate([id_images(90, 40), ood_images(20, 41)])
    settings = {"default_image_model": "tiny", "capture_dir": kept, "capture_per_label": 100}
    with live_server(models_dir, **settings) as running:
        answers = running.client.post("/score", content=npy(images[:100]), headers=NPY).json()
        results = answers["results"]
        for pixels in images[100:]:
            sent = {"files": {"file": encode(pixels)}}
            results += running.client.post("/score", **sent).json()["results"]
        written(running)
    done = runner.invoke(app, ["captures", "export", str(target), "--folder", str(kept)])
    assert done.exit_code == 0, done.output
    read = SOURCES["folder"]("review", SPEC, path=str(target))
    expected = Counter(
        (result["label"], pixels.tobytes())
        for result, pixels in zip(results, images, strict=True)
        if result["detectors"]["combined"]["p_value"] <= 0.05 + 1e-9
    )
    found = Counter(
        (read.class_names[label], pixels.tobytes())
        for label, pixels in zip(read.labels, read.inputs, strict=True)
    )
    assert found == expected
    assert found.total() >= 20
    lines = [json.loads(line) for line in (target / "captures.jsonl").read_text().splitlines()]
    assert {line["file"] for line in lines} == {
        file.relative_to(target).as_posix() for file in target.rglob("*.png")
    }
    by_group: dict[str, list[float]] = {}
    for line in lines:
        by_group.setdefault(line["version"], []).append(line["score"])
    assert all(scores == sorted(scores, reverse=True) for scores in by_group.values())


def test_texts_become_lines_that_training_reads(mixed_dir: Path, tmp_path: Path) -> None:
    kept, target = tmp_path / "kept", tmp_path / "review"
    texts = [*ood_texts(12, 7), "zażółć gęślą jaźń\nin two lines"]
    body = {"inputs": [{"text": text} for text in texts], "model": "words"}
    with live_server(mixed_dir, capture_dir=kept) as running:
        results = running.client.post("/score", json=body).json()["results"]
        written(running)
    listed = runner.invoke(app, ["captures", "list"], env={"OODSCORE_CAPTURE_DIR": str(kept)})
    done = runner.invoke(app, ["captures", "export", str(target), "--folder", str(kept)])
    assert done.exit_code == listed.exit_code == 0, done.output + listed.output
    read = TEXT_SOURCES["jsonl"]("review", path=str(target / "captures.jsonl"))
    expected = {
        (text, result["label"])
        for text, result in zip(texts, results, strict=True)
        if result["p_value"] <= 0.05 + 1e-9
    }
    names = read.class_names
    assert {
        (text, names[label]) for text, label in zip(read.texts, read.labels, strict=True)
    } == expected
    assert len(listed.stdout.splitlines()) == len(expected) > 5
    assert all(" words  version 1 " in line for line in listed.stdout.splitlines())


def test_what_others_ask_for_changes_nothing(models_dir: Path, tmp_path: Path) -> None:
    """Judged by the primary detector at the bundle's acceptance, or not at all."""
    rows = npy(id_images(60, 42))
    with live_server(models_dir, default_image_model="tiny", capture_dir=tmp_path) as running:
        running.client.post(
            "/score", content=rows, headers=NPY, params={"detectors": "msp", "id_acceptance": 0.5}
        )
        written(running)
        assert running.runtime.captures is not None
        assert running.runtime.captures.stored == 0
        answer = running.client.post(
            "/score", content=rows, headers=NPY, params={"id_acceptance": 0.5}
        ).json()
        written(running)
        unlikely = [r for r in answer["results"] if r["p_value"] <= 0.05 + 1e-9]
        assert running.runtime.captures.stored == len(unlikely) < 15


def test_outcomes_are_counted_and_nothing_else_is_labelled(
    models_dir: Path, tmp_path: Path
) -> None:
    with live_server(models_dir, default_image_model="tiny", capture_dir=tmp_path) as running:
        for seed in (43, 43):
            running.client.post("/score", content=npy(ood_images(5, seed)), headers=NPY)
            written(running)
        lines = running.client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("oodscore_captures"))
    assert values == {
        **{
            f'oodscore_captures_total{{outcome="{outcome}"}}': "0.0"
            for outcome in ("dropped", "too_large", "withheld", "failed", "pushed_out", "expired")
        },
        'oodscore_captures_total{outcome="kept"}': "5.0",
        'oodscore_captures_total{outcome="duplicate"}': "5.0",
        "oodscore_captures_stored": "5.0",
        "oodscore_captures_stored_bytes": values["oodscore_captures_stored_bytes"],
    }
    assert float(values["oodscore_captures_stored_bytes"]) == sum(
        file.stat().st_size for file in tmp_path.glob("*.png")
    )


def test_without_the_setting_nothing_is_kept(server: LiveServer) -> None:
    assert server.runtime.captures is None
    assert "oodscore_captures_stored" not in server.client.get("/metrics").text


def test_a_redaction_hook_is_named_by_its_path(models_dir: Path, tmp_path: Path) -> None:
    with live_server(
        models_dir,
        default_image_model="tiny",
        capture_dir=tmp_path,
        capture_redaction="service.captures:without_metadata",
    ) as running:
        comment = PngInfo()
        comment.add_text("Comment", "Elm Street 12")
        picture = encode(ood_images(1, 44)[0], pnginfo=comment)
        assert b"Elm" in picture
        assert running.client.post("/score", files={"file": picture}).status_code == 200
        written(running)
    (file,) = tmp_path.glob("*.png")
    assert b"Elm" not in file.read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OODSCORE_CAPTURE_REDACTION", "nobody.knows:this", "nobody"),
        ("OODSCORE_CAPTURE_PER_LABEL", "0", "capture_per_label"),
        ("OODSCORE_CAPTURE_DIR", "FILE/captures", "OODSCORE_CAPTURE_DIR"),
    ],
)
def test_unusable_settings_stop_the_start(
    tmp_path: Path,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    told: str,
) -> None:
    (tmp_path / "FILE").write_text("")
    monkeypatch.setattr("service.server.configure_logging", lambda _: None)
    monkeypatch.setenv("OODSCORE_MODELS_DIR", str(models_dir))
    monkeypatch.setenv(name, value.replace("FILE", str(tmp_path / "FILE")))
    monkeypatch.setattr("sys.argv", ["oodscore", "serve", "--port", "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (1, 2)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["export", "TARGET"], "OODSCORE_CAPTURE_DIR"),
        (["export", "TARGET", "--folder", "nowhere"], "no folder nowhere"),
        (["export", "TARGET", "--folder", "EMPTY"], "nothing to export"),
    ],
)
def test_the_command_line_says_what_is_missing(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    places = {"TARGET": str(tmp_path / "out"), "EMPTY": str(tmp_path)}
    done = runner.invoke(app, ["captures", *(places.get(a, a) for a in arguments)])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


# --- over HTTP, for admins


@pytest.fixture(scope="module")
def reviewed(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    """Ten inputs of tiny/2 are kept, or nearly as many."""
    settings = {
        "default_image_model": "tiny",
        "capture_dir": tmp_path_factory.mktemp("kept"),
        "api_keys": parse_entries(ENTRIES),
    }
    with live_server(models_dir, **settings) as running:
        rows = npy(ood_images(10, 60))
        running.client.post("/score", content=rows, headers=NPY | key("web"))
        written(running)
        yield running


def key(name: str) -> dict[str, str]:
    return {"X-API-Key": SECRETS[name]}


def listed(server: LiveServer, **query: str | int) -> dict[str, Any]:
    answer = server.client.get("/captures", params=query, headers=key("ops"))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_admin_sees_lists_and_takes_out(reviewed: LiveServer) -> None:
    answer = listed(reviewed)
    assert answer["total"] == answer["stored"] == len(answer["captures"]) >= 5
    scores = [capture["score"] for capture in answer["captures"]]
    assert scores == sorted(scores, reverse=True)
    sent = {picture.tobytes() for picture in ood_images(10, 60)}
    for capture in answer["captures"]:
        assert capture["model"] == "tiny"
        assert capture["version"] == "2"
        response = reviewed.client.get(f"/captures/{capture['id']}", headers=key("ops"))
        assert response.headers["content-type"] == capture["media_type"] == "image/png"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "sandbox" in response.headers["content-security-policy"]
        assert response.headers["content-disposition"].startswith("attachment")
        assert len(response.content) == capture["size_bytes"]
        with Image.open(BytesIO(response.content)) as image:
            assert np.asarray(image).tobytes() in sent


def test_the_list_is_cut_into_pages_and_by_label(reviewed: LiveServer) -> None:
    everything = listed(reviewed)["captures"]
    pages = [listed(reviewed, offset=start, limit=2) for start in range(0, len(everything), 2)]
    assert [capture for page in pages for capture in page["captures"]] == everything
    assert {page["total"] for page in pages} == {len(everything)}
    label = everything[0]["label"]
    assert listed(reviewed, label=label, model="tiny", version="2")["captures"] == [
        capture for capture in everything if capture["label"] == label
    ]
    assert listed(reviewed, version="1")["captures"] == []


@pytest.mark.parametrize("name", ["web", "prometheus"])
def test_nobody_else_does(reviewed: LiveServer, name: str) -> None:
    (capture, *_) = listed(reviewed)["captures"]
    for method, path in (
        ("GET", "/captures"),
        ("GET", f"/captures/{capture['id']}"),
        ("DELETE", f"/captures/{capture['id']}"),
    ):
        request = reviewed.client.request
        assert_problem(request(method, path, headers=key(name)), 403, "scope_missing")
        assert_problem(request(method, path), 401, "key_missing")


def test_a_service_without_keys_shows_them_to_nobody(models_dir: Path, tmp_path: Path) -> None:
    with live_server(models_dir, capture_dir=tmp_path) as running:
        assert_problem(running.client.get("/captures"), 403, "admin_closed")


def test_an_admin_is_told_that_captures_are_off(models_dir: Path) -> None:
    with live_server(models_dir, api_keys=parse_entries(ENTRIES)) as running:
        answer = running.client.get("/captures", headers=key("ops"))
        assert_problem(answer, 404, "captures_off")
        assert "OODSCORE_CAPTURE_DIR" in answer.json()["detail"]


@pytest.mark.parametrize("identity", ["0" * 32, "..%2F..%2Fetc%2Fpasswd", "x.json"])
def test_what_is_not_there_cannot_be_had(reviewed: LiveServer, identity: str) -> None:
    for method in ("GET", "DELETE"):
        answer = reviewed.client.request(method, f"/captures/{identity}", headers=key("ops"))
        assert answer.status_code == 404


def test_the_command_line_takes_them_from_a_service(reviewed: LiveServer, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    folder = reviewed.runtime.settings.capture_dir
    environment = {"OODSCORE_API_KEY": SECRETS["ops"]}
    export = ["captures", "export"]
    remote = runner.invoke(app, [*export, str(there), "--url", reviewed.url], env=environment)
    local = runner.invoke(app, [*export, str(here), "--folder", str(folder)])
    assert remote.exit_code == local.exit_code == 0, remote.output + local.output
    contents = [
        {file.relative_to(place): file.read_bytes() for file in place.rglob("*.*")}
        for place in (here, there)
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == listed(reviewed)["stored"] + 1
    refused = runner.invoke(app, ["captures", "list", "--url", reviewed.url])
    assert isinstance(refused.exception, ServiceRefused)
    assert refused.exception.code == "key_missing"


def test_deleted_is_gone(reviewed: LiveServer) -> None:
    before = listed(reviewed)
    identity = before["captures"][-1]["id"]
    path = f"/captures/{identity}"
    assert reviewed.client.delete(path, headers=key("ops")).status_code == 204
    assert_problem(reviewed.client.get(path, headers=key("ops")), 404, "unknown_capture")
    assert_problem(reviewed.client.delete(path, headers=key("ops")), 404, "unknown_capture")
    assert listed(reviewed)["stored"] == before["stored"] - 1
