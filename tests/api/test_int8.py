"""The int8 variant: served where a setting names the model, told everywhere, never silently."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import npy
from tiny_bundle import (
    CALIBRATION_SIZE,
    FORWARD_DETECTORS,
    id_images,
    publish_tiny_bundle,
    reference_outputs,
)
from typer.testing import CliRunner

from service import cli
from service.bundle import threshold_at
from service.graphs import SessionOptions
from service.loading import VariantMissing
from service.repository import open_repository
from service.settings import Settings

SEED = 6
IMAGES = id_images(12, 80)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """both/1 carries an int8 variant, plain/1 does not.  Read only."""
    folder = tmp_path_factory.mktemp("variants")
    publish_tiny_bundle(folder, "both", "1", seed=SEED, everything=True)
    publish_tiny_bundle(folder, "plain", "1", seed=SEED)
    return folder


@pytest.fixture(scope="module")
def fast(repository: Path) -> Generator[LiveServer]:
    with live_server(repository, int8_models="both") as running:
        yield running


@pytest.fixture(scope="module")
def exact(repository: Path) -> Generator[LiveServer]:
    with live_server(repository) as running:
        yield running


def results(server: LiveServer, model: str, detectors: str | None = None) -> list[Any]:
    params = {"model": model} | ({} if detectors is None else {"detectors": detectors})
    headers = {"Content-Type": "application/x-npy"}
    answer = server.client.post("/score", content=npy(IMAGES), headers=headers, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def scores(rows: list[Any], detector: str) -> list[float]:
    return [row["detectors"][detector]["score"] for row in rows]


def threshold(detector: str, *, int8: bool) -> float:
    calibration = reference_outputs(id_images(CALIBRATION_SIZE, SEED), int8=int8)
    return threshold_at(np.sort(calibration[f"score/{detector}"]), 0.95)


@pytest.mark.parametrize("int8", [False, True])
def test_scores_thresholds_and_p_values_are_those_of_the_chosen_variant(
    fast: LiveServer, exact: LiveServer, int8: bool
) -> None:
    server = fast if int8 else exact
    rows = results(server, "both")
    expected, other = (reference_outputs(IMAGES, int8=which) for which in (int8, not int8))
    calibration = reference_outputs(id_images(CALIBRATION_SIZE, SEED), int8=int8)
    shown = {d["name"]: d for d in server.client.get("/models/both").json()["detectors"]}
    for detector in FORWARD_DETECTORS:
        output = f"score/{detector}"
        got = scores(rows, detector)
        np.testing.assert_allclose(got, expected[output], atol=1e-5)
        assert np.abs(got - other[output]).max() > 0.01  # the test could tell them apart
        assert shown[detector]["threshold"] == threshold(detector, int8=int8)
        assert threshold(detector, int8=int8) != threshold(detector, int8=not int8)
        for row in rows:
            entry = row["detectors"][detector]
            assert entry["threshold"] == threshold(detector, int8=int8)
            rank = 1 + (calibration[output] >= np.float32(entry["score"])).sum()
            # one calibration score may lie within rounding of this one
            assert entry["p_value"] == pytest.approx(rank / (CALIBRATION_SIZE + 1), abs=0.0051)


def test_another_acceptance_is_taken_from_the_variants_calibration(fast: LiveServer) -> None:
    answer = fast.client.post(
        "/score",
        content=npy(IMAGES[:1]),
        headers={"Content-Type": "application/x-npy"},
        params={"model": "both", "id_acceptance": 0.5, "detectors": "energy"},
    )
    calibration = reference_outputs(id_images(CALIBRATION_SIZE, SEED), int8=True)["score/energy"]
    assert answer.json()["results"][0]["detectors"]["energy"]["threshold"] == threshold_at(
        np.sort(calibration), 0.5
    )


def test_detectors_on_demand_keep_their_plain_graph(fast: LiveServer, exact: LiveServer) -> None:
    rows = {server.url: results(server, "both", "odin,mc_dropout") for server in (fast, exact)}
    for detector in ("odin", "mc_dropout"):
        assert scores(rows[fast.url], detector) == scores(rows[exact.url], detector)
        entries = [row[0]["detectors"][detector] for row in rows.values()]
        assert entries[0] == entries[1]


def test_models_that_are_not_named_stay_as_they_are(fast: LiveServer, exact: LiveServer) -> None:
    assert results(fast, "plain") == results(exact, "plain")


def test_what_is_served_is_told(fast: LiveServer, exact: LiveServer) -> None:
    for server, variant in ((fast, "int8"), (exact, "fp32")):
        models = {m["name"]: m["variant"] for m in server.client.get("/models").json()["models"]}
        assert models == {"both": variant, "plain": "fp32"}
        text = server.client.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("oodscore_model_info{")]
        told = {name: f'variant="{models[name]}"' for name in models}
        assert len(lines) == 2
        for line in lines:
            assert any(f'model="{name}"' in line and label in line for name, label in told.items())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("plain", "names plain, but its version 1 carries no int8 variant"),
        ("both,plain", "names plain, but its version 1"),
        ("nope", "names nope, but .* holds both, plain; correct the setting"),
    ],
)
def test_what_is_not_there_refuses_to_start(repository: Path, named: str, message: str) -> None:
    settings = Settings(int8_models=named)  # type: ignore[arg-type]
    with pytest.raises(VariantMissing, match=message):
        open_repository(repository, SessionOptions("cpu"), int8_models=settings.int8_models)


def test_every_version_of_a_named_model_must_have_it(tmp_path: Path) -> None:
    publish_tiny_bundle(tmp_path, "both", "1", seed=1, everything=True)
    publish_tiny_bundle(tmp_path, "both", "2", seed=1)
    with pytest.raises(VariantMissing, match="its version 2 carries no int8"):
        open_repository(tmp_path, SessionOptions("cpu"), int8_models={"both"})


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("score", "rows.npy")])
def test_the_command_line_says_so(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", IMAGES)
    monkeypatch.setenv("OODSCORE_MODELS_DIR", str(repository))
    monkeypatch.setenv("OODSCORE_DEFAULT_IMAGE_MODEL", "plain")
    monkeypatch.setenv("OODSCORE_INT8_MODELS", "plain")
    monkeypatch.setattr("sys.argv", ["oodscore", *command])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "OODSCORE_INT8_MODELS names plain" in capsys.readouterr().err


def test_offline_scoring_follows_the_setting(
    fast: LiveServer, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", IMAGES)
    monkeypatch.setenv("OODSCORE_MODELS_DIR", str(repository))
    monkeypatch.setenv("OODSCORE_INT8_MODELS", "both")
    arguments = ["score", str(tmp_path / "rows.npy"), "--json", "--model", "both"]
    answer = CliRunner().invoke(cli.app, arguments)
    assert answer.exit_code == 0, answer.output
    offline = [json.loads(line) for line in answer.stdout.splitlines()]
    expected = reference_outputs(IMAGES, int8=True)["score/energy"]
    np.testing.assert_allclose(scores(offline, "energy"), expected, atol=1e-5)
    assert scores(offline, "energy") == scores(results(fast, "both"), "energy")
