"""Thresholds of each predicted class: what they are, what they keep, what old bundles say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tiny_bundle import publish_tiny_bundle

from service.bundle import (
    BundleCorrupt,
    Manifest,
    class_references,
    p_values,
    read_calibration_classes,
    read_manifest,
    threshold_at,
    write_calibration_classes,
)
from service.decision import Plan, PlannedDetector, decide
from training.export.bundle import predicted_classes
from training.fitting import SetScores


def calibrated(seed: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a class lie about ten times its number; ascending, with their classes."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(10 * c, 1, n) for c, n in enumerate(sizes)])
    classes = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    order = np.argsort(scores)
    return scores[order].astype(np.float32), classes[order]


def test_a_class_has_its_own_scores_or_all_of_them() -> None:
    scores, classes = calibrated(0, (300, 100, 5))
    references = class_references(scores, classes, 4, 0.95)
    for c in (0, 1):
        assert (references[c].scores == scores[classes == c]).all()
        assert references[c].threshold == threshold_at(scores[classes == c], 0.95)
    for c in (2, 3):
        assert references[c].scores is scores
        assert references[c].threshold == threshold_at(scores, 0.95)
    assert class_references(scores, classes, 4, 0.8)[2].scores is not scores, "enough for 80 %"


def verdicts(by_class: bool, values: np.ndarray, labels: np.ndarray) -> list[Any]:
    scores, classes = calibrated(1, (400, 400))
    references = class_references(scores, classes, 2, 0.95) if by_class else None
    spec: Any = type("Spec", (), {"name": "s", "output": "score/s", "graph": "forward.onnx"})()
    detector = PlannedDetector(spec, threshold_at(scores, 0.95), scores, references)
    plan = Plan(("a", "b"), "s", (detector,))
    logits = np.eye(2, dtype=np.float32)[labels] * 5
    return decide({"logits": logits, "score/s": values.astype(np.float32)}, plan)


def test_the_promise_holds_within_every_predicted_class() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 4000)
    values = rng.normal(10 * labels, 1)
    within = (0.02, 0.09)
    for by_class, bounds in ((True, (within, within)), (False, ((0, 0.001), (0.06, 0.15)))):
        rows = [answer.detectors["s"] for answer in verdicts(by_class, values, labels)]
        flagged = np.array([row.decision == "OOD" for row in rows])
        for label, (low, high) in enumerate(bounds):
            assert low <= flagged[labels == label].mean() <= high
        positions = np.array([row.p_value for row in rows])
        assert ((positions <= 0.05 + 1e-9) == flagged).all()


def test_an_input_is_held_against_the_class_it_is_predicted_as() -> None:
    scores, classes = calibrated(1, (400, 400))
    first, second = verdicts(True, np.array([6.0, 6.0]), np.array([0, 1]))
    assert first.detectors["s"].decision == "OOD"
    assert second.detectors["s"].decision == "ID"
    for answer, label in ((first, 0), (second, 1)):
        own = scores[classes == label]
        assert answer.detectors["s"].threshold == threshold_at(own, 0.95)
        assert answer.detectors["s"].p_value == p_values(own, np.array([6.0]))[0]


def test_classes_are_written_in_the_order_of_the_scores() -> None:
    logits = np.eye(3, dtype=np.float32)[[2, 0, 1, 1]]
    scores = {"all": np.array([3.0, 1.0, 2.0, 0.5], np.float32), "some": np.float32([5, 4])}
    found = predicted_classes(SetScores(logits, scores))
    assert found["all"].tolist() == [1, 0, 1, 2]
    assert found["some"].tolist() == [1, 2]  # of the first and the last input
    assert found["all"].dtype == np.int32


def test_a_bundle_without_them_says_none_and_a_wrong_file_is_refused(tmp_path: Path) -> None:
    folder = publish_tiny_bundle(tmp_path, "tiny", "1", seed=1).path
    manifest = read_manifest(folder)
    assert read_calibration_classes(folder, manifest) is None
    named = manifest.model_copy(update={"calibration_classes": "calibration-classes.npz"})
    sizes = {spec.name: spec.calibration_size for spec in manifest.detectors}
    right = {name: np.zeros(size, np.int32) for name, size in sizes.items()}
    first = next(iter(right))
    for wrong, reason in (
        ({}, "holds"),
        (right | {first: right[first][:-1]}, "expected int32"),
        (right | {first: right[first].astype(np.int64)}, "expected int32"),
        (right | {first: right[first] + 3}, "a class that the model has not"),
    ):
        write_calibration_classes(folder, wrong)
        with pytest.raises(BundleCorrupt, match=reason):
            read_calibration_classes(folder, named)
    write_calibration_classes(folder, right)
    found = read_calibration_classes(folder, named)
    assert found is not None
    assert set(found) == set(sizes)


def test_a_manifest_names_the_file_and_has_no_variants(tmp_path: Path) -> None:
    values = read_manifest(publish_tiny_bundle(tmp_path, "tiny", "1", seed=1).path).model_dump(
        mode="json"
    )
    values["calibration_classes"] = "calibration-classes.npz"
    with pytest.raises(ValidationError, match="is not in files"):
        Manifest.model_validate(values)
    values["files"]["calibration-classes.npz"] = "0" * 64
    Manifest.model_validate(values | {"variants": []})
