"""docs/active-learning.md says what the study measured."""

from itertools import pairwise

import numpy as np
from PIL import Image
from scipy import stats

from benchmarks.active_tables import PAGE, PICTURE, arms, blocks, filled, measured
from training.active.study import load_active_study

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results() -> None:
    assert filled(TEXT) == TEXT, "run python -m benchmarks.active_tables"


def test_everything_was_measured_as_the_study_says() -> None:
    study = load_active_study()
    shared = study.model_dump(mode="json", exclude={"arms"}, exclude_defaults=True)
    found = measured()["arms"]
    assert set(found) == {arm.name for arm in study.arms}
    for arm in study.arms:
        assert found[arm.name]["what"] == arm.what
        assert len(found[arm.name]["by_seed"]) >= 3
        for entry in found[arm.name]["by_seed"].values():
            assert entry["config"]["study"] == shared
            dumped = arm.model_dump(mode="json", exclude={"what"})
            assert entry["config"]["arm"] == {k: v for k, v in dumped.items() if v != {}}


def test_a_figure_of_the_table_by_hand() -> None:
    runs = arms(measured())
    last = [rounds[-1]["accuracy"] for rounds in runs["mi_uniform"]]
    half = stats.t.ppf(0.975, len(last) - 1) * np.std(last, ddof=1) / len(last) ** 0.5
    (row,) = (
        line
        for line in blocks()["active-learning"].splitlines()
        if line.startswith("| `mi_uniform` | mutual information")
    )
    assert f"{100 * np.mean(last):.1f} ± {100 * half:.1f}" in row


def test_every_query_was_counted() -> None:
    for seeds in arms(measured()).values():
        for before, after in (pair for rounds in seeds for pair in pairwise(rounds)):
            assert after["queries"] == before["queries"] + before["asked"]
            assert after["labels"] + after["rejected"] == 20 + after["queries"]


def test_the_picture_is_there_and_not_blank() -> None:
    with Image.open(PICTURE) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert f"]({PICTURE.name})" in TEXT
