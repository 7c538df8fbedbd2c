"""docs/choosing-an-objective.md says what the studies measured."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.study_tables import DETECTORS, PAGE, PICTURE, arms, blocks, filled
from training.studies import STUDIES, load_study

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results() -> None:
    assert filled(TEXT) == TEXT, "run python -m benchmarks.study_tables"


def test_the_blocks_are_studies() -> None:
    assert set(blocks()) - {"gain", "spread"} <= set(STUDIES)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_was_measured_as_its_file_says(name: str) -> None:
    known = {arm.name: arm for arm in load_study(name).arms}
    for arm, seeds in arms(name).items():
        for number, seed in enumerate(seeds):
            config = load_study(name).config(known[arm], number)
            assert seed["config"] == config.model_dump(mode="json", exclude_defaults=True)


def test_the_picture_is_there_and_not_blank() -> None:
    with Image.open(PICTURE) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert f"]({PICTURE.name})" in TEXT
    assert len(DETECTORS) == 7
