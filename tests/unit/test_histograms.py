"""Histograms of calibration scores: nothing is lost, one extreme score squeezes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.histograms import BINS, histogram_of


@given(
    st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=400),
    st.integers(1, 60),
)
def test_every_score_is_counted_where_it_lies(scores: list[float], bins: int) -> None:
    ordered = np.sort(np.array(scores, np.float32))
    histogram = histogram_of(ordered, bins)
    assert len(histogram.counts) == bins
    assert histogram.low < histogram.high
    assert min(histogram.counts) >= 0
    assert histogram.below + sum(histogram.counts) + histogram.above == len(ordered)
    wide = ordered.astype(np.float64)
    assert histogram.below == (wide < histogram.low).sum()
    assert histogram.above == (wide > histogram.high).sum()
    expected, _ = np.histogram(wide, bins, (histogram.low, histogram.high))
    # numpy places scores by division, which may round over an edge
    assert (
        np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max()
        <= np.isin(wide, np.linspace(histogram.low, histogram.high, bins + 1)).sum()
    )


def test_an_extreme_score_is_counted_and_not_drawn() -> None:
    ordered = np.sort(np.r_[np.random.default_rng(0).normal(size=999), 1e9]).astype(np.float32)
    histogram = histogram_of(ordered)
    assert histogram.high < 10
    assert (histogram.below, histogram.above) == (5, 5)
    assert np.count_nonzero(histogram.counts) > BINS / 2


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-30, 1e30])
def test_scores_that_are_all_alike_make_one_bar(value: float) -> None:
    histogram = histogram_of(np.full(50, value, np.float32))
    assert [count for count in histogram.counts if count] == [50]
