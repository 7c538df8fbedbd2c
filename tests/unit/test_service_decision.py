"""Scores and thresholds -> verdicts."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import (
    DecisionPolicy,
    DetectorSpec,
    GoldenTolerance,
    ImageInput,
    Manifest,
    Provenance,
    p_values,
    threshold_at,
)
from service.decision import DECILES, Plan, Verdict, decide, deciles_of, make_plan
from service.errors import (
    AcceptanceOutOfReach,
    InvalidParameter,
    ScoreNotFinite,
    UnknownDetector,
)

N = 199
CALIBRATION = {
    "a": np.linspace(0, 1, N, dtype=np.float32),
    "b": np.linspace(-5, 5, N, dtype=np.float32),
}


def detector(name: str, cost: str = "logits") -> DetectorSpec:
    return DetectorSpec(
        name=name,
        output=f"score/{name}",
        graph="forward.onnx" if cost == "logits" else f"{cost}-{name}.onnx",
        cost=cost,  # type: ignore[arg-type]
        hyperparameters={},
        threshold=threshold_at(CALIBRATION[name], 0.95),
        id_acceptance=0.95,
        calibration_size=N,
        acceptance_interval=(0.9, 1.0),
        reference="",
    )


def manifest(*detectors: DetectorSpec, primary: str = "a") -> Manifest:
    return Manifest(
        schema_version=1,
        name="m",
        version="1",
        modality="image",
        description="",
        input=ImageInput(height=8, width=8, channels=1, mean=(0.0,), std=(1.0,)),
        class_names=("x", "y"),
        detectors=detectors,
        policy=DecisionPolicy(primary=primary),
        golden_tolerance=GoldenTolerance(absolute=0.0, relative=0.0),
        files={spec.graph: "0" * 64 for spec in detectors},
        provenance=Provenance(
            created=datetime(2026, 1, 1, tzinfo=UTC),
            config={},
            data={},
            libraries={},
            seed=0,
            duration_seconds=0.0,
        ),
    )


BOTH = manifest(detector("a"), detector("b"))


def outputs(a: list[float], b: list[float] | None = None, logits: object = None) -> dict:
    return {
        "logits": np.array(logits or [[1.0, 0.0]] * len(a), np.float32),
        "score/a": np.array(a, np.float32),
        "score/b": np.array(b or [0.0] * len(a), np.float32),
    }


def plan(**options: object) -> Plan:
    return make_plan(BOTH, CALIBRATION, **options)  # type: ignore[arg-type]


def test_the_primary_decides_unless_another_is_named_first() -> None:
    assert plan().deciding == "a"
    assert plan(detectors=["b", "a"]).deciding == "b"
    assert [d.name for d in plan(detectors=["b", "a", "b"]).detectors] == ["b", "a"]


def test_expensive_detectors_run_only_when_named() -> None:
    for cost in ("gradient", "multi_pass"):
        costly = manifest(detector("a"), detector("b", cost))
        assert [d.name for d in make_plan(costly, CALIBRATION).detectors] == ["a"]
        named = make_plan(costly, CALIBRATION, ["b", "a"])
        assert [d.name for d in named.detectors] == ["b", "a"]
        assert named.deciding == "b"
        with pytest.raises(ValueError, match=r"primary 'b' does not stand in forward\.onnx"):
            manifest(detector("a"), detector("b", cost), primary="b")


def test_unknown_detectors_and_impossible_acceptances_are_refused() -> None:
    with pytest.raises(UnknownDetector, match="nope"):
        plan(detectors=["nope"])
    with pytest.raises(InvalidParameter):
        plan(detectors=[])
    for acceptance in (0.0, 1.0, -1.0, 2.0, float("nan"), float("inf")):
        with pytest.raises(InvalidParameter):
            plan(id_acceptance=acceptance)
    with pytest.raises(AcceptanceOutOfReach) as caught:
        plan(id_acceptance=0.996)
    assert caught.value.limit == N / (N + 1)
    assert plan(id_acceptance=caught.value.limit).detectors[0].threshold == 1.0


def test_the_threshold_itself_is_id() -> None:
    threshold = plan().detectors[0].threshold
    just_above = float(np.nextafter(np.float32(threshold), np.float32(9)))
    verdicts = decide(outputs([threshold, just_above]), plan())
    assert [v.deciding.decision for v in verdicts if isinstance(v, Verdict)] == ["ID", "OOD"]


def test_confidence_is_the_softmax_of_the_label() -> None:
    (verdict,) = decide(outputs([0.0], logits=[[1000.0, 1001.0]]), plan())
    assert isinstance(verdict, Verdict)
    assert (verdict.label, verdict.label_index) == ("y", 1)
    assert verdict.confidence == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_an_error_of_that_input_alone(bad: float) -> None:
    answers = decide(outputs([0.1, bad, 0.2], [0.0, 0.0, bad]), plan())
    assert isinstance(answers[0], Verdict)
    assert isinstance(answers[1], ScoreNotFinite)
    assert isinstance(answers[2], ScoreNotFinite)
    assert "score/b" in answers[2].detail
    assert isinstance(decide(outputs([0.1], logits=[[bad, 0.0]]), plan())[0], ScoreNotFinite)
    only_a = decide(outputs([0.2], [bad]), plan(detectors=["a"]))
    assert isinstance(only_a[0], Verdict)


@given(
    scores=st.lists(st.floats(-10, 10, width=32, allow_subnormal=False), min_size=1, max_size=20),
    acceptance=st.floats(0.01, 0.99),
)
def test_ood_is_exactly_a_small_p_value(scores: list[float], acceptance: float) -> None:
    asked = plan(id_acceptance=acceptance)
    for answer in decide(outputs(scores, scores), asked):
        assert isinstance(answer, Verdict)
        for verdict in answer.detectors.values():
            rank_limit = round((1 - acceptance) * (N + 1) - 1e-9, 6)
            rank = round(verdict.p_value * (N + 1))
            assert (verdict.decision == "OOD") == (rank <= rank_limit)
            assert 0 < verdict.p_value <= 1


def test_deciles_are_equally_filled_by_calibration_like_data() -> None:
    ranks = np.arange(1, N + 2) / (N + 1)
    counts = np.bincount(deciles_of(ranks), minlength=DECILES)
    assert counts.tolist() == [20] * DECILES
    most_ood = p_values(CALIBRATION["a"], np.array([9.0]))
    assert deciles_of(np.array([1.0, 1e-9, most_ood[0]])).tolist() == [0, 9, 9]
