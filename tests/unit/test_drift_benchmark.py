"""The drifts of the benchmark are what they say, and its alerts are those of Prometheus."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import id_images, ood_images, reference_outputs

from benchmarks.drift import alerts, statistics
from benchmarks.drift.drifts import SHIFTED_CLASS, Drift, Streams, streams_of
from benchmarks.drift.scores import CORRUPTIONS, OOD_FILES, SEVERITIES, Answers, World
from service.drift.reference import Reference
from service.graphs import SessionOptions
from service.repository import open_repository


def answers(images: np.ndarray) -> Answers:
    outputs = reference_outputs(images)
    scores = outputs["score/combined"].astype(np.float64)
    return Answers({"combined": scores}, outputs["logits"].argmax(axis=1))


@pytest.fixture(scope="module")
def world(models_dir: Path) -> World:
    test_id, ood = answers(id_images(6000, 500)), answers(ood_images(500, 501))
    return World(
        bundle=open_repository(models_dir, SessionOptions("cpu", 1)).get("tiny", "1"),
        test_id=test_id,
        classes=np.arange(6000) % 3,
        ood=dict.fromkeys(OOD_FILES, ood),
        corrupted={(kind, severity): test_id for kind in CORRUPTIONS for severity in SEVERITIES},
    )


@pytest.fixture(scope="module")
def streams(world: World) -> Streams:
    return streams_of(world, 0)


@pytest.fixture(scope="module")
def reference(world: World) -> Reference:
    return statistics.reference_of(world, "combined")


def the(streams: Streams, kind: str, size: str) -> Drift:
    return next(drift for drift in streams.drifts if (drift.kind, drift.size) == (kind, size))


def test_shares_are_what_they_say(world: World, streams: Streams) -> None:
    """OOD is known by scores that no ID input has."""
    rng = np.random.default_rng(0)
    strange = np.setdiff1d(world.ood["mnist"].scores["combined"], world.test_id.scores["combined"])
    for size, share in (("1 %", 0.01), ("25 %", 0.25)):
        drawn = the(streams, "ood", size).draw(rng, 0, 40_000).scores["combined"]
        assert np.isin(drawn, strange).mean() == pytest.approx(share, rel=0.1)
    ramp = the(streams, "ramp", "10,000 inputs")
    for first, share in ((0, 0.05), (8000, 0.45), (50_000, 0.5)):
        drawn = ramp.draw(rng, first, 2000).scores["combined"]
        assert np.isin(drawn, strange).mean() == pytest.approx(share, abs=0.04)


def test_a_class_comes_more_often_and_nothing_is_ood(world: World, streams: Streams) -> None:
    drawn = the(streams, "labels", "x 2").draw(np.random.default_rng(1), 0, 30_000)
    shares = np.bincount(drawn.labels, minlength=3) / 30_000
    assert shares[SHIFTED_CLASS] == pytest.approx(2 / 3, abs=0.05)
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
    assert np.isin(drawn.scores["combined"], world.test_id.scores["combined"]).all()
    assert streams.label_counts.sum() == 3000


def test_statistics_find_what_they_are_made_for(
    world: World, streams: Streams, reference: Reference
) -> None:
    def found(drift: Drift) -> dict[str, float]:
        return statistics.first_found(world, streams, reference, drift, 2000, 30_000.0, seed=0)

    flood, shift = found(the(streams, "ood", "50 %")), found(the(streams, "labels", "x 2"))
    assert set(flood) >= {"psi", "ks", "wasserstein", "p_values", "ood_rate", "shiryaev_roberts"}
    assert flood["shiryaev_roberts"] <= flood["psi"] <= 1000
    assert shift["labels"] <= 1000
    assert "shiryaev_roberts" not in shift
    assert "ood_rate" not in shift


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not on the PATH")
def test_alerts_fire_after_their_for_and_not_before_the_drift(
    world: World, streams: Streams, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "CALM_SECONDS", 1800)
    monkeypatch.setattr(alerts, "DRIFT_SECONDS", 900)
    cuts = [streams, streams_of(world, 1)]
    calm = alerts.calm_services(cuts, reference, 30_000.0)

    def found(kind: str, size: str) -> dict[str, dict[str, float | None]]:
        place = cuts[0].drifts.index(the(cuts[0], kind, size))
        return alerts.delays(world.bundle.manifest.class_names, cuts, place, calm)

    flood = found("ood", "50 %")
    assert flood["OodscoreDriftAlarm"]["fired"] == 1
    assert flood["OodscoreDriftAlarm"]["median"] <= 3
    fast = flood["OodscoreOodRateFast"]
    assert fast["fired"] == 1
    assert 2 <= fast["median"] <= 12  # for: 2m
    assert flood["OodscoreDistributionShift"]["fired"] == 0  # for: 30m
    assert {alert["fired_before"] for alert in flood.values()} == {0}
    nothing = found("none", "")
    assert {(alert["fired"], alert["fired_before"]) for alert in nothing.values()} == {(0, 0)}
