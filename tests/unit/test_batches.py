"""Texts of like length share a batch, and no batch passes its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from service.batches import BatchLimits, by_length

LIMITS = BatchLimits(rows=8, on_demand_rows=2, padded_tokens=600)


def padding(lengths: list[int], batch: list[int]) -> int:
    taken = [lengths[number] for number in batch]
    return len(taken) * max(taken) - sum(taken)


@given(st.lists(st.integers(1, 1000), max_size=80))
def test_every_row_goes_once_and_bounds_hold(lengths: list[int]) -> None:
    batches = by_length(lengths, LIMITS)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[number] for number in batch)
        assert 1 <= len(batch) <= 8
        assert padded <= 600 or len(batch) == 1
        assert padding(lengths, batch) <= max(64, padded / 4)


def test_one_long_text_costs_its_neighbours_nothing() -> None:
    assert by_length([10, 500, 11, 12, 9], LIMITS) == [[4, 0, 2, 3], [1]]


def test_short_texts_share_a_batch_though_their_lengths_differ() -> None:
    assert by_length([1, 12, 3, 6], LIMITS) == [[0, 2, 3, 1]]


def test_equal_lengths_keep_their_order() -> None:
    assert by_length([5] * 10, LIMITS) == [list(range(8)), [8, 9]]


def test_nothing_makes_no_batch() -> None:
    assert by_length([], LIMITS) == []
