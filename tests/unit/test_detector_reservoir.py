"""The reservoir is a uniform sample that does not depend on how the stream is cut."""

import pytest
import torch

from training.detectors.reservoir import Reservoir


def sample(batch: int, capacity: int = 50, seed: int = 1, length: int = 400) -> list[int]:
    reservoir = Reservoir(capacity, seed)
    rows = torch.arange(length)
    for part in rows.split(batch):
        reservoir.add(part, part * 2)
    kept, doubled = reservoir.columns()
    assert torch.equal(doubled, kept * 2)
    assert reservoir.passed == length
    return kept.tolist()


def test_the_cut_into_batches_changes_nothing() -> None:
    assert sample(7) == sample(400) == sample(1)
    assert sample(7) == sorted(sample(7))
    assert sample(7, seed=2) != sample(7)


def test_all_rows_while_they_fit() -> None:
    assert sample(64, capacity=400) == list(range(400))


def test_every_row_is_equally_likely() -> None:
    counts = torch.zeros(40)
    for seed in range(600):
        counts[sample(16, capacity=10, seed=seed, length=40)] += 1
    # each count is binomial(600, 1/4): mean 150, sd 10.6
    assert (counts - 150).abs().max() < 4.5 * 10.6


def test_an_empty_reservoir_is_refused() -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        Reservoir(0)
