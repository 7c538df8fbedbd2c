"""docs/active-learning.md says what the disambiguation study measured."""

import numpy as np
from PIL import Image
from scipy import stats

from benchmarks.disambiguation_tables import PAGE, PICTURE, filled, measured
from training.active.disambiguation import disambiguation_finished, load_disambiguation
from training.active.own_studies import OWN_STUDIES

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results() -> None:
    assert filled(TEXT) == TEXT, "run python -m benchmarks.disambiguation_tables"


def test_everything_was_measured_as_the_study_says() -> None:
    folder = PAGE.parents[1] / "benchmarks" / "results" / "disambiguation"
    assert disambiguation_finished(load_disambiguation(), (0, 1, 2, 3, 4), folder)
    assert OWN_STUDIES["disambiguation"].finished((0,), folder)
    assert not OWN_STUDIES["disambiguation"].finished((0, 5), folder)


def test_a_figure_of_the_table_by_hand() -> None:
    seeds = measured()["arms"]["parzen_repulsion"]["by_seed"].values()
    values = [100 * seed["new"]["all_mixed"] for seed in seeds]
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    start = "| `parzen_repulsion` | density of everything, Gaussians and kernels |"
    (row,) = (line for line in TEXT.splitlines() if line.startswith(start))
    assert row.endswith(f"| {np.mean(values):.1f} ± {half:.1f} |")


def test_the_picture_is_there_and_not_blank() -> None:
    with Image.open(PICTURE) as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert f"]({PICTURE.name})" in TEXT
