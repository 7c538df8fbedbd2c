"""Which mistakes are the worst, and how they are shown; texts and images."""

import json
from pathlib import Path

import numpy as np
import pytest

from training.data import ImageSet, TextSet
from training.evaluation.markup import page
from training.evaluation.mistakes import (
    LISTED,
    SHOWN,
    Judge,
    ScoredInputs,
    mistake_lines,
    worst_mistakes,
)
from training.evaluation.mistakes_page import contact_sheet, mistakes_section

JUDGE = Judge("combined", 1.0, np.arange(99) / 50, ("card", "weather"))


def texts(name: str, scores: list[float], label: int = -1) -> ScoredInputs:
    count = len(scores)
    data = TextSet(
        name,
        np.ones((count, 2), np.int64),
        np.full(count, label, np.int64),
        JUDGE.class_names,
        "by hand",
        tuple(f"<text> {i}" for i in range(count)),
        0,
    )
    return ScoredInputs(data, np.array(scores), np.zeros(count, np.int64))


def test_false_alarms_fall_and_false_accepts_rise() -> None:
    """At the threshold itself an input is accepted."""
    found = worst_mistakes(
        JUDGE,
        texts("test_id", [0.2, 1.5, 1.0, 3.0], label=1),
        {"far": texts("far", [0.9, 1.0, 5.0, -2.0])},
    )
    alarms, accepts = found.rows
    assert [(one.position, one.score) for one in alarms.worst] == [(3, 3.0), (1, 1.5)]
    assert [(one.position, one.score) for one in accepts.worst] == [(3, -2.0), (0, 0.9), (1, 1.0)]
    assert (alarms.count, alarms.total, accepts.count, accepts.total) == (2, 4, 3, 4)
    # 24 of 99 calibration scores are 1.5 or more: (1 + 24) / 100
    assert alarms.worst[1].p_value == pytest.approx(0.25)
    assert alarms.worst[0].label == "weather"
    assert accepts.worst[0].label is None
    lines = [json.loads(line) for line in mistake_lines(found).splitlines()]
    assert lines[0] == {
        "set": "test_id",
        "kind": "false_alarm",
        "position": 3,
        "score": 3.0,
        "p_value": pytest.approx(0.01),
        "predicted": "card",
        "label": "weather",
        "text": "<text> 3",
    }
    shown = page("t", mistakes_section(found))
    assert "&lt;text&gt; 3" in shown
    assert "3 of 4" in shown
    assert "is weather" in shown


def test_a_set_without_mistakes_has_no_list() -> None:
    found = worst_mistakes(JUDGE, texts("test_id", [0.0]), {"far": texts("far", [2.0])})
    assert [row.count for row in found.rows] == [0, 0]
    assert mistake_lines(found) == ""
    assert "0.00 %" in mistakes_section(found)


def test_images_are_shown_with_their_files(tmp_path: Path) -> None:
    count = 2 * LISTED
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    files = tuple(f"{i}.png" for i in range(count))
    labels = np.zeros(count, np.int64)
    data = ImageSet("far", pixels, labels, JUDGE.class_names, "by hand", files)
    scores = np.linspace(-1, 0, count)
    calm = ImageSet("test_id", pixels[:3], labels[:3], JUDGE.class_names, "by hand")
    found = worst_mistakes(
        JUDGE,
        ScoredInputs(calm, np.zeros(3), labels[:3]),
        {"far": ScoredInputs(data, scores, labels)},
    )
    row = found.rows[1]
    assert len(row.worst) == LISTED
    assert row.worst[7].file == "7.png"
    assert row.pixels is not None
    np.testing.assert_array_equal(row.pixels, pixels[:SHOWN])
    figure = contact_sheet(found)
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert len(shown) == SHOWN  # test-ID has no mistake and no row
    np.testing.assert_array_equal(shown[0], pixels[0])
    assert any(text.get_text().startswith("far: OOD accepted, 100 of 100") for text in figure.texts)


def test_files_stay_with_their_images() -> None:
    pixels = np.zeros((3, 2, 2, 1), np.uint8)
    labels = np.zeros(3, np.int64)
    data = ImageSet("some", pixels, labels, ("a",), "by hand", ("0", "1", "2"))
    assert data.take(np.array([2, 0]), "some").files == ("2", "0")
    with pytest.raises(ValueError, match="2 files, 3 images"):
        ImageSet("some", pixels, labels, ("a",), "by hand", ("0", "1"))
