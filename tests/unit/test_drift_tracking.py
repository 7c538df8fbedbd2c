"""Windows, batches, words and the state file, without a server."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import publish_tiny_bundle

import service.drift.tracker as tracker_module
from service.bundle import Manifest, read_calibration, read_manifest
from service.decision import Verdict, VerdictRow
from service.drift import DriftOptions, DriftTracker, ModelReport, WindowSize
from service.drift.label_shift import residuals
from service.drift.report import (
    DetectorReport,
    Distance,
    KolmogorovSmirnov,
    LabelReport,
    LabelShare,
    MartingaleReport,
    OodRate,
    PValueHistogram,
    ShiryaevRobertsReport,
    WindowReport,
)
from service.drift.state_file import StateUnreadable, read_state, write_state
from service.drift.window import SlidingWindow
from service.drift.words import summarise

NOW = datetime(2026, 3, 1, 15, 0, tzinfo=UTC)
OPTIONS = DriftOptions(WindowSize(500, 3600.0), 30_000.0)


class Clock:
    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "REPORT_EVERY_SECONDS", 0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Mapping[str, Any]]:
    ref = publish_tiny_bundle(tmp_path_factory.mktemp("drift"), "tiny", "1", seed=1)
    manifest = read_manifest(ref.path)
    return manifest, read_calibration(ref.path, manifest)


def tracker_of(
    bundle: tuple[Manifest, Mapping[str, Any]], clock: Clock, state_file: Path | None = None
) -> DriftTracker:
    tracker = DriftTracker(DriftOptions(OPTIONS.window, OPTIONS.run_length, state_file), clock)
    tracker.watch(*bundle, "one")
    return tracker


def verdicts(scores: Mapping[str, NDArray[np.floating]], label: int = 0) -> list[Verdict]:
    names = list(scores)
    rows = np.stack([scores[name] for name in names], axis=1).tolist()
    return [
        Verdict(
            "stripes",
            label,
            0.9,
            names[0],
            VerdictRow(tuple(names), (0.0,) * len(names), row, [0.5] * len(names)),
        )
        for row in rows
    ]


def drawn(
    bundle: tuple[Manifest, Mapping[str, Any]], count: int, seed: int, *names: str
) -> list[Verdict]:
    """Calibration scores drawn again: ID as far as anything can tell."""
    rng = np.random.default_rng(seed)
    calibration = bundle[1]
    return verdicts({n: rng.choice(calibration[n], count) for n in names or list(calibration)})


def only(reports: Sequence[ModelReport]) -> ModelReport:
    (report,) = reports
    return report


def test_a_window_holds_the_last_values_and_none_too_old() -> None:
    window = SlidingWindow(WindowSize(5, 10.0))
    assert window.read(0.0)[1] is None
    window.add(np.arange(3), np.zeros(3))
    window.add(np.arange(3, 7), np.full(4, 8.0))
    values, oldest = window.read(9.0)
    assert sorted(values.tolist()) == [2, 3, 4, 5, 6]
    assert oldest == 0.0
    values, oldest = window.read(11.0)
    assert sorted(values.tolist()) == [3, 4, 5, 6]
    assert oldest == 8.0
    window.add(np.arange(100), np.full(100, 12.0))
    assert sorted(window.read(12.0)[0].tolist()) == [95, 96, 97, 98, 99]
    assert window.read(30.0)[1] is None


def test_answers_are_counted_however_they_come(
    bundle: tuple[Manifest, Mapping[str, Any]],
) -> None:
    """One by one, in thousands, with detectors by turns: nothing lost, nothing out of order."""
    clock = Clock()
    tracker = tracker_of(bundle, clock)
    for seed in range(700):
        tracker.add("tiny", "1", drawn(bundle, 1, seed, *(("msp",) if seed % 2 else ())))
    tracker.add("tiny", "1", drawn(bundle, 1300, 1000))
    tracker.add("tiny", "1", [])
    inputs = {d.name: d.inputs for d in only(tracker.reports()).detectors}
    assert inputs == {"combined": 350 + 1300, "energy": 350 + 1300, "msp": 700 + 1300}


def test_detectors_asked_for_by_turns_see_their_answers_in_order(
    bundle: tuple[Manifest, Mapping[str, Any]],
) -> None:
    mixed, alone = tracker_of(bundle, Clock()), tracker_of(bundle, Clock())
    both, one = drawn(bundle, 40, 1), drawn(bundle, 40, 2, "msp")
    far = verdicts({"msp": np.full(3, 9.0)})
    for first, second in zip(both, one, strict=True):
        for answers in ([first], far, [second]):
            mixed.add("tiny", "1", answers)
            alone.add("tiny", "1", verdicts({"msp": np.array([answers[0].detectors["msp"].score])}))
            for extra in answers[1:]:
                alone.add("tiny", "1", [extra])
    reports = [
        next(d for d in only(t.reports()).detectors if d.name == "msp") for t in (mixed, alone)
    ]
    assert reports[0].shiryaev_roberts == reports[1].shiryaev_roberts
    assert reports[0].shiryaev_roberts.alarms > 0


def test_what_is_held_does_not_grow(bundle: tuple[Manifest, Mapping[str, Any]]) -> None:
    tracker = tracker_of(bundle, Clock())
    for seed in range(8):
        tracker.add("tiny", "1", drawn(bundle, 1100, seed))
        tracker.catch_up()
        held = sum(len(answers.labels) for _, answers in tracker._waiting)
        assert held == tracker._waiting_count < 1024
    report = only(tracker.reports())
    assert {d.window.size for d in report.detectors if d.window} == {500}


def test_a_report_is_made_once_for_all_who_ask(
    bundle: tuple[Manifest, Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "REPORT_EVERY_SECONDS", 2.0)
    clock = Clock()
    tracker = tracker_of(bundle, clock)
    first = only(tracker.reports())
    tracker.add("tiny", "1", drawn(bundle, 10, 0))
    assert only(tracker.reports()) is first
    clock.now += 2.0
    assert only(tracker.reports()).detectors[0].inputs == 10


def test_a_bundle_without_calibration_labels(
    bundle: tuple[Manifest, Mapping[str, Any]],
) -> None:
    manifest, calibration = bundle
    without = manifest.model_copy(update={"label_counts": None})
    tracker = DriftTracker(OPTIONS, Clock())
    tracker.watch(without, calibration, "one")
    tracker.add("tiny", "1", drawn(bundle, 300, 0))
    report = only(tracker.reports())
    assert report.labels is None
    assert report.summary.startswith("quiet: ")


def test_constant_scores_have_no_distance(bundle: tuple[Manifest, Mapping[str, Any]]) -> None:
    manifest, calibration = bundle
    constant = {name: np.zeros_like(scores) for name, scores in calibration.items()}
    tracker = DriftTracker(OPTIONS, Clock())
    tracker.watch(manifest, constant, "one")
    tracker.add("tiny", "1", verdicts({name: np.zeros(300) for name in calibration}))
    window = only(tracker.reports()).detectors[0].window
    assert window is not None
    assert window.psi is None
    assert window.wasserstein is None
    assert window.kolmogorov_smirnov.beyond is False
    assert window.p_values.beyond is False


def test_state_is_written_now_and_then_and_at_the_end(
    bundle: tuple[Manifest, Mapping[str, Any]], tmp_path: Path
) -> None:
    clock, file = Clock(), tmp_path / "drift.json"
    tracker = tracker_of(bundle, clock, file)
    tracker.add("tiny", "1", drawn(bundle, 600, 0))
    tracker.catch_up()
    assert not file.exists()
    clock.now += 11
    tracker.add("tiny", "1", drawn(bundle, 600, 1))
    tracker.catch_up()
    assert read_state(file)["tiny/1"].detectors["msp"].inputs == 256  # the others wait for more
    tracker.add("tiny", "1", drawn(bundle, 5, 2))
    tracker.catch_up()  # too few to be worth it
    tracker.close()
    assert read_state(file)["tiny/1"].detectors["msp"].inputs == 1205
    assert [path.name for path in tmp_path.iterdir()] == ["drift.json"]
    again = tracker_of(bundle, clock, file)
    assert only(again.reports()).detectors[0].inputs == 1205


def test_a_state_that_cannot_be_kept_stops_nothing(
    bundle: tuple[Manifest, Mapping[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = tracker_of(bundle, Clock(), tmp_path / "missing" / "drift.json")
    tracker.add("tiny", "1", drawn(bundle, 10, 0))
    tracker.close()
    assert "could not be kept" in caplog.text
    assert only(tracker.reports()).detectors[0].inputs == 10


@pytest.mark.parametrize("text", ["", "[]", '{"models": {}, "more": 1}', '{"models": {"a/1": 3}}'])
def test_a_damaged_state_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "drift.json"
    file.write_text(text)
    with pytest.raises(StateUnreadable, match=str(file)):
        read_state(file)


def test_no_state_yet(tmp_path: Path) -> None:
    assert read_state(tmp_path / "drift.json") == {}
    write_state(tmp_path / "drift.json", {})
    assert read_state(tmp_path / "drift.json") == {}


def described(
    name: str, rate: float, since: datetime | None = None, size: int = 2000, *, moved: bool = False
) -> DetectorReport:
    distance = Distance(value=0.0, threshold=1.0, beyond=moved)
    return DetectorReport(
        name=name,
        inputs=size,
        began=NOW,
        began_because="first_seen",
        window=WindowReport(
            size=size,
            oldest=NOW,
            judged=size >= 200,
            psi=distance,
            kolmogorov_smirnov=KolmogorovSmirnov(statistic=0.0, p_value=1.0, beyond=False),
            wasserstein=distance,
            p_values=PValueHistogram(counts=[], p_value=1.0, beyond=False),
            ood_rate=OodRate(
                count=0,
                rate=rate,
                low=0.0,
                high=1.0,
                expected=0.05,
                expected_highest=0.055,
                beyond=False,
            ),
        ),
        shiryaev_roberts=ShiryaevRobertsReport(
            evidence=0.0,
            run_length=1.0,
            alarms=0,
            last_alarm=since,
            drifting=since is not None,
            since=since,
        ),
        martingale=MartingaleReport(
            log_capital=0.0, log_capital_of_alarm=4.6, alarms=0, last_alarm=None
        ),
    )


def shifted(label: str, share: float, expected: float) -> LabelReport:
    return LabelReport(
        size=2000,
        chi_square=99.0,
        p_value=1e-9,
        jensen_shannon=Distance(value=0.1, threshold=0.01, beyond=True),
        beyond=True,
        most_changed=[LabelShare(label=label, share=share, expected=expected, standard_errors=9.0)],
    )


SINCE = NOW.replace(hour=14, minute=5)


@pytest.mark.parametrize(
    ("detectors", "labels", "words"),
    [
        (
            [described(n, 0.155, SINCE) for n in ("combined", "energy", "fssd")],
            shifted("ship", 0.2, 0.1),
            "3.1x the expected OOD rate since 14:05 UTC; energy and fssd agree; predicted label "
            "'ship' doubled",
        ),
        (
            [described("combined", 0.05), described("energy", 0.1, SINCE.replace(day=1, month=2))],
            None,
            "2.0x the expected OOD rate since 2026-02-01 14:05 UTC by energy, not by combined; "
            "no other detector agrees",
        ),
        (
            [described("combined", 0.1, SINCE), *(described(f"d{i}", 0.1, SINCE) for i in "12345")],
            shifted("cat", 0.0, 0.1),
            "2.0x the expected OOD rate since 14:05 UTC; d1, d2 and 3 more agree; predicted label "
            "'cat' vanished",
        ),
        (
            [described("combined", 0.045), described("knn", 0.05, moved=True)],
            shifted("dog", 0.35, 0.1),
            "quiet: 0.9x the expected OOD rate over the last 2,000 inputs; the distribution of knn "
            "scores moved; predicted label 'dog' is 3.5x as frequent",
        ),
        ([described("combined", 0.5, size=57)], None, "too few inputs to judge: 57 of 200"),
    ],
)
def test_words(detectors: list[DetectorReport], labels: LabelReport | None, words: str) -> None:
    assert summarise("combined", detectors, labels, NOW) == words


def test_labels_that_neither_sample_holds_count_for_nothing() -> None:
    assert residuals(np.array([5, 0]), np.array([5, 0])).tolist() == [0.0, 0.0]
