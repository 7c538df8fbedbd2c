"""Probes, the list of models, reports, metrics, the answer of last resort."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from live_server import LiveServer, live_server
from pictures import id_png, npy, ood_png
from test_refusals import assert_problem
from tiny_bundle import id_images

from service.bundle import FORWARD
from service.onnx_session import OnnxSession

PNG = {"Content-Type": "image/png"}

FAMILIES = {
    "oodscore_batch_release_total",
    "oodscore_batch_size",
    "oodscore_build_info",
    "oodscore_bundle_reloads_total",
    "oodscore_bundles_refused",
    "oodscore_calibration_age_seconds",
    "oodscore_calibration_labels",
    "oodscore_calibration_size",
    "oodscore_captures_total",
    "oodscore_decisions_total",
    "oodscore_detector_ood_total",
    "oodscore_drift_alarms_total",
    "oodscore_drift_evidence",
    "oodscore_drift_ks",
    "oodscore_drift_martingale_alarms_total",
    "oodscore_drift_psi",
    "oodscore_drift_run_length",
    "oodscore_drift_wasserstein",
    "oodscore_drift_window_size",
    "oodscore_expected_ood_rate",
    "oodscore_in_flight",
    "oodscore_key_requests_total",
    "oodscore_model_info",
    "oodscore_model_ready",
    "oodscore_p_value",
    "oodscore_predicted_label_total",
    "oodscore_primary_detector",
    "oodscore_queue_items",
    "oodscore_queue_seconds",
    "oodscore_rejected_inputs_total",
    "oodscore_rejected_requests_total",
    "oodscore_request_duration_seconds",
    "oodscore_requests_total",
    "oodscore_score_decile_total",
    "oodscore_stage_duration_seconds",
    "oodscore_truncated_texts_total",
}


class ScriptedSession:
    """At the session seam: the real session, with a way to fail or to give NaN."""

    def __init__(self, real: OnnxSession) -> None:
        self.real = real
        self.provider = real.provider
        self.threads = real.threads
        self.tuning = real.tuning
        self.single = None
        self.batches: list[int] = []

    def run(self, pixels: Any, outputs: Any) -> dict[str, Any]:
        self.batches.append(len(pixels))
        if (pixels == 255).all(axis=(1, 2, 3)).any():
            raise RuntimeError("secret path /models/x failed")
        results = self.real.run(pixels, outputs)
        black = (pixels == 0).all(axis=(1, 2, 3))
        results["score/energy"] = np.where(black, np.nan, results["score/energy"])
        return results


@pytest.fixture
def scripted(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedSession:
    repository = server.runtime.require_repository()
    sessions = cast(dict[str, Any], repository.get("tiny").sessions)
    session = ScriptedSession(sessions[FORWARD])
    monkeypatch.setitem(sessions, FORWARD, session)
    return session


def score_rows(client: httpx.Client, rows: Any) -> httpx.Response:
    headers = {"Content-Type": "application/x-npy"}
    return client.post("/score", content=npy(rows), headers=headers)


def codes(response: httpx.Response) -> list[str | None]:
    assert response.status_code == 200, response.text
    return [result.get("error", {}).get("code") for result in response.json()["results"]]


def test_an_input_that_makes_the_model_fail_fails_alone(
    client: httpx.Client, scripted: ScriptedSession
) -> None:
    rows = id_images(5, 70)
    rows[3] = 255
    assert codes(score_rows(client, rows)) == [None, None, None, "inference_failed", None]
    assert scripted.batches == [5, 1, 1, 1, 1, 1]
    problem = assert_problem(score_rows(client, rows[3:4]), 500, "inference_failed")
    assert "secret" not in problem["detail"]


def test_a_score_that_is_not_finite_is_never_a_decision(
    client: httpx.Client, scripted: ScriptedSession
) -> None:
    rows = id_images(3, 71)
    rows[0] = 0
    assert codes(score_rows(client, rows)) == ["score_not_finite", None, None]
    assert (
        "score/energy"
        in assert_problem(score_rows(client, rows[:1]), 500, "score_not_finite")["detail"]
    )


def test_unexpected_errors_are_problems_too(
    server: LiveServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(server.runtime, "require_repository", broken)
    problem = assert_problem(client.get("/models"), 500, "internal_error")
    assert "secret" not in str(problem)
    monkeypatch.undo()
    assert client.get("/models").status_code == 200


def test_probes(server: LiveServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    monkeypatch.setattr(server.runtime, "draining", True)
    assert_problem(client.get("/readyz"), 503, "shutting_down")
    assert client.post("/score", content=id_png(), headers=PNG).status_code == 200
    monkeypatch.setattr(server.runtime, "repository", None)
    assert_problem(client.get("/readyz"), 503, "not_ready")
    unready = client.post("/score", content=id_png(), headers=PNG)
    assert_problem(unready, 503, "not_ready")
    assert unready.headers["retry-after"] == "1"
    assert client.get("/livez").status_code == 200


def test_the_tests_need_no_way_around_a_proxy(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with live_server(models_dir) as running:
        assert running.client.get("/livez").status_code == 200


def test_probes_answer_head(
    server: LiveServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/livez", "/readyz"):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")
    monkeypatch.setattr(server.runtime, "draining", True)
    assert client.head("/readyz").status_code == 503
    assert client.head("/livez").status_code == 200


def test_models_are_described(client: httpx.Client) -> None:
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert set(models) == {"tiny", "other"}
    tiny = client.get("/models/tiny").json()
    assert models["tiny"] == tiny
    assert tiny["version"] == "2"
    assert tiny["versions"] == ["1", "2"]
    assert tiny["default"] is True
    assert tiny["provider"] == "cpu"
    assert tiny["classes"] == ["stripes", "frame", "half"]
    assert {d["name"] for d in tiny["detectors"]} == {"combined", "energy", "msp"}
    assert tiny["detectors"][0]["calibration_size"] == 199
    assert client.get("/models/tiny", params={"version": "1"}).json()["version"] == "1"
    odin = client.get("/models/other").json()["detectors"][-1]
    assert (odin["name"], odin["on_demand"]) == ("odin", True)


def test_report_is_served_without_rights(client: httpx.Client) -> None:
    response = client.get(client.get("/models/tiny").json()["report"])
    assert "report of tiny" in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_metric_names_are_pinned(client: httpx.Client) -> None:
    client.post("/score", content=id_png(), headers=PNG)
    text = client.get("/metrics").text
    named = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert named == FAMILIES
    assert "_created" not in text


def test_scores_are_counted(models_dir: Path) -> None:
    with live_server(models_dir, default_image_model="tiny") as running:
        for _ in range(3):
            running.client.post("/score", content=ood_png(), headers=PNG)
        score_rows(running.client, id_images(7, 72))
        running.client.get("/unheard/of/path")
        value = running.runtime.metrics.registry.get_sample_value
        model = {"model": "tiny", "version": "2"}

        def count(family: str, labels: Mapping[str, str]) -> float:
            return value(f"oodscore_{family}", dict(labels)) or 0

        decided = [count("decisions_total", model | {"decision": d}) for d in ("ID", "OOD")]
        assert sum(decided) == 10
        assert decided[1] >= 3
        for detector in ("combined", "energy", "msp"):
            bound = model | {"detector": detector}
            deciles = [count("score_decile_total", bound | {"decile": str(d)}) for d in range(10)]
            assert sum(deciles) == 10
            assert deciles[9] >= 3
            assert count("p_value_count", bound) == 10
            assert count("detector_ood_total", bound) >= 3
            assert count("calibration_size", bound) == 199
            assert count("expected_ood_rate", bound) == pytest.approx(0.05)
        assert count("primary_detector", model | {"detector": "combined"}) == 1
        assert value("oodscore_primary_detector", model | {"detector": "energy"}) is None
        manifest = running.runtime.require_repository().get("tiny").manifest
        recorded = [
            count("calibration_labels", model | {"label": name}) for name in manifest.class_names
        ]
        assert recorded == list(manifest.label_counts or ())
        assert sum(recorded) == 199
        assert count("batch_size_count", {"model": "tiny"}) == 4
        assert count("requests_total", {"route": "/score", "status": "200"}) == 4
        assert count("requests_total", {"route": "unmatched", "status": "404"}) == 1
        assert count("queue_items", {}) == 0
        assert count("calibration_age_seconds", model) > 0


def test_another_acceptance_does_not_move_the_monitored_rate(models_dir: Path) -> None:
    with live_server(models_dir, default_image_model="tiny") as running:
        headers = {"Content-Type": "application/x-npy"}
        body = npy(id_images(100, 73))
        answer = running.client.post(
            "/score", content=body, headers=headers, params={"id_acceptance": 0.5}
        )
        flagged = [result["decision"] == "OOD" for result in answer.json()["results"]]
        assert sum(flagged) > 30
        bound = {"model": "tiny", "version": "2", "detector": "combined"}
        value = running.runtime.metrics.registry.get_sample_value
        assert (value("oodscore_detector_ood_total", bound) or 0) < 20


def test_calibration_histograms_are_those_of_the_bundle(
    server: LiveServer, client: httpx.Client
) -> None:
    for version in ("1", "2"):
        answer = client.get("/models/tiny/calibration", params={"version": version})
        document = answer.json()
        bundle = server.runtime.require_repository().get("tiny", version)
        assert (document["version"], document["variant"]) == (version, bundle.variant)
        assert set(document["detectors"]) == set(bundle.calibration)
        for name, scores in bundle.calibration.items():
            histogram = document["detectors"][name]
            counted = sum(histogram["counts"]) + histogram["below"] + histogram["above"]
            assert counted == len(scores)
            assert scores[0] <= histogram["low"] < histogram["high"] <= scores[-1]
        assert len(answer.content) < 400 * len(bundle.calibration)
    assert client.get("/models/tiny/calibration").json()["version"] == "2"
    assert_problem(client.get("/models/nope/calibration"), 404, "unknown_model")
    unknown = client.get("/models/tiny/calibration", params={"version": "9"})
    assert_problem(unknown, 404, "unknown_version")
