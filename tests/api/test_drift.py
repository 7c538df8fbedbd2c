"""Drift seen from outside: quiet on ID traffic, loud on drifted, the same after a restart."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import npy
from test_refusals import assert_problem
from tiny_bundle import id_images, ood_images

import service.drift.tracker as tracker

NPY = {"Content-Type": "application/x-npy"}
DETECTORS = ("combined", "energy", "msp")


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "REPORT_EVERY_SECONDS", 0.0)


@pytest.fixture
def server(models_dir: Path) -> Generator[LiveServer]:
    with live_server(models_dir, default_image_model="tiny") as running:
        yield running


def send(client: httpx.Client, images: Any, **parameters: str) -> None:
    for start in range(0, len(images), 256):
        rows = npy(images[start : start + 256])
        response = client.post("/score", content=rows, headers=NPY, params=parameters)
        assert response.status_code == 200, response.text


def served(client: httpx.Client) -> dict[str, Any]:
    """The report of tiny/2."""
    answer = client.get("/drift", params={"model": "tiny"}).json()
    assert answer["tracking"] is True
    return next(model for model in answer["models"] if model["version"] == "2")


def by_name(model: dict[str, Any]) -> dict[str, Any]:
    return {detector["name"]: detector for detector in model["detectors"]}


def series(client: httpx.Client, family: str) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith(f"oodscore_{family}{{"))
    return {labels: float(value) for labels, _, value in found}


def test_id_traffic_leaves_it_quiet(server: LiveServer) -> None:
    send(server.client, id_images(3000, 900))
    model = served(server.client)
    assert model["drifting"] is False
    assert model["since"] is None
    assert model["summary"].startswith("quiet: ")
    for name, detector in by_name(model).items():
        window = detector["window"]
        assert window["size"] == 2000
        assert detector["inputs"] == 3000
        assert detector["shiryaev_roberts"]["alarms"] == detector["martingale"]["alarms"] == 0, name
        assert 0 <= detector["shiryaev_roberts"]["evidence"] < 1
        for statistic in ("psi", "kolmogorov_smirnov", "wasserstein", "p_values", "ood_rate"):
            assert window[statistic]["beyond"] is False, (name, statistic)
        assert sum(window["p_values"]["counts"]) == 2000
    assert model["labels"]["beyond"] is False


def test_drifted_traffic_raises_the_alarm(server: LiveServer) -> None:
    send(server.client, id_images(1000, 901))
    mixed = id_images(1000, 902)
    mixed[np.random.default_rng(0).random(1000) < 0.3] = ood_images(1, 903)[0]
    send(server.client, mixed)
    model = served(server.client)
    assert model["drifting"] is True
    assert "the expected OOD rate since " in model["summary"]
    assert "agree" in model["summary"]
    combined = by_name(model)["combined"]
    assert combined["shiryaev_roberts"]["alarms"] >= 1
    assert combined["martingale"]["alarms"] >= 1
    assert combined["shiryaev_roberts"]["since"] <= combined["shiryaev_roberts"]["last_alarm"]
    assert combined["began_because"] == "alarm"
    window = combined["window"]
    for statistic in ("psi", "kolmogorov_smirnov", "wasserstein", "p_values", "ood_rate"):
        assert window[statistic]["beyond"] is True, statistic
    # 15 % strange among 2000, on top of about 5 % of the rest
    assert window["ood_rate"]["rate"] == pytest.approx(0.15 + 0.05 * 0.85, abs=0.03)


def test_metrics_say_what_the_report_says(server: LiveServer) -> None:
    send(server.client, np.concatenate([id_images(300, 904), ood_images(300, 905)]))
    detectors = by_name(served(server.client))
    for name in DETECTORS:
        said = {
            family: next(
                value
                for labels, value in series(server.client, f"drift_{family}").items()
                if f'detector="{name}"' in labels and 'model="tiny",version="2"' in labels
            )
            for family in ("psi", "ks", "wasserstein", "evidence", "window_size", "alarms_total")
        }
        detector = detectors[name]
        window = detector["window"]
        assert said == {
            "psi": pytest.approx(window["psi"]["value"]),
            "ks": pytest.approx(window["kolmogorov_smirnov"]["statistic"]),
            "wasserstein": pytest.approx(window["wasserstein"]["value"]),
            "evidence": pytest.approx(detector["shiryaev_roberts"]["evidence"]),
            "window_size": 600,
            "alarms_total": detector["shiryaev_roberts"]["alarms"],
        }, name
        assert said["alarms_total"] >= 1


def test_a_shift_of_labels_alone_is_named(server: LiveServer) -> None:
    stripes = id_images(3000, 906)[0::3]
    rest = id_images(900, 907)
    send(server.client, np.concatenate([stripes, rest]))
    labels = served(server.client)["labels"]
    assert labels["beyond"] is True
    assert labels["jensen_shannon"]["beyond"] is True
    most = labels["most_changed"][0]
    assert most["label"] == "stripes"
    assert most["share"] == pytest.approx((1000 + 300) / 1900, abs=0.01)
    assert most["expected"] == pytest.approx(1 / 3, abs=0.01)
    assert "predicted label 'stripes' doubled" in served(server.client)["summary"]


def test_only_named_detectors_are_taken_in(server: LiveServer) -> None:
    send(server.client, id_images(20, 908))
    send(server.client, id_images(30, 909), detectors="msp")
    inputs = {name: d["inputs"] for name, d in by_name(served(server.client)).items()}
    assert inputs == {"combined": 20, "energy": 20, "msp": 50}


def test_few_inputs_are_not_judged(server: LiveServer) -> None:
    assert served(server.client)["summary"] == "no inputs in the window"
    send(server.client, ood_images(60, 910)[:30])
    model = served(server.client)
    window = by_name(model)["combined"]["window"]
    assert window["judged"] is False
    assert window["psi"]["beyond"] is False
    assert window["psi"]["value"] > window["psi"]["threshold"]


def test_a_restart_keeps_the_evidence(models_dir: Path, tmp_path: Path) -> None:
    settings = {"default_image_model": "tiny", "drift_state_file": tmp_path / "drift.json"}
    with live_server(models_dir, **settings) as first:
        send(first.client, np.concatenate([id_images(300, 911), ood_images(150, 912)]))
        send(first.client, id_images(200, 913))
        before = by_name(served(first.client))
    with live_server(models_dir, **settings) as second:
        after = by_name(served(second.client))
        for name, detector in before.items():
            assert after[name] == detector | {"window": None}, name
        assert before["combined"]["shiryaev_roberts"]["alarms"] >= 1
        send(second.client, id_images(10, 914))
        assert by_name(served(second.client))["combined"]["inputs"] == 660


@contextmanager
def _with_state(models_dir: Path, file: Path, text: str) -> Iterator[LiveServer]:
    file.write_text(text)
    with live_server(models_dir, default_image_model="tiny", drift_state_file=file) as running:
        yield running


def test_a_damaged_state_file_begins_anew_and_says_so(models_dir: Path, tmp_path: Path) -> None:
    with _with_state(models_dir, tmp_path / "drift.json", '{"models": {"tiny') as running:
        detector = by_name(served(running.client))["combined"]
        assert detector["began_because"] == "state_unreadable"
        assert detector["inputs"] == 0


def test_evidence_of_another_calibration_is_not_taken_up(models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "drift.json"
    with live_server(models_dir, default_image_model="tiny", drift_state_file=file) as first:
        send(first.client, ood_images(200, 915))
    text = file.read_text()
    digest = first.runtime.require_repository().get("tiny").digest
    with _with_state(models_dir, file, text.replace(digest, "0" * 64)) as running:
        detector = by_name(served(running.client))["combined"]
        assert detector["began_because"] == "bundle_changed"
        assert detector["shiryaev_roberts"]["alarms"] == 0


def test_hostile_requests_add_no_series(server: LiveServer) -> None:
    def drift_lines() -> list[str]:
        lines = server.client.get("/metrics").text.splitlines()
        return [line.rpartition(" ")[0] for line in lines if line.startswith("oodscore_drift_")]

    send(server.client, id_images(20, 916))
    before = drift_lines()
    rows = npy(id_images(1, 917))
    for place in range(200):
        for parameters in ({"model": f"m{place}"}, {"version": f"{place + 10}"}):
            server.client.post("/score", content=rows, headers=NPY, params=parameters)
        server.client.post("/score", content=rows, headers=NPY, params={"detectors": f"d{place}"})
        server.client.get("/drift", params={"model": f"m{place}"})
    assert drift_lines() == before


def test_an_unknown_model_is_refused(server: LiveServer) -> None:
    assert_problem(server.client.get("/drift", params={"model": "nobody"}), 404, "unknown_model")


def test_it_can_be_turned_off(models_dir: Path) -> None:
    with live_server(models_dir, default_image_model="tiny", drift_tracking=False) as running:
        send(running.client, id_images(20, 918))
        assert running.client.get("/drift").json() == {"tracking": False, "models": []}
        assert "oodscore_drift" not in running.client.get("/metrics").text
