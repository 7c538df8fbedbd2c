"""What the one pass over train-ID shows to whom: averages to most, maps to few, and of a large
set evenly chosen ones."""

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import CLASSES, toy_classifier, toy_pixels

from training.data import ImageSet
from training.detectors import Detector, FitError
from training.detectors.fssd import Fssd
from training.detectors.vectors import all_finite, finite
from training.fitting import evenly_chosen, fit_detectors
from training.outputs import Outputs


class Recorder(Detector):
    """Keeps what it is shown of train-ID."""

    def __init__(self, *, maps: bool, enough: int | None = None) -> None:
        super().__init__()
        self.reads_maps = maps  # type: ignore[misc]
        self.enough = enough  # type: ignore[misc]
        self.seen: list[tuple[Outputs, Tensor]] = []

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self.seen.append((outputs, labels))

    def joined(self, layer: str) -> Tensor:
        return torch.cat([outputs.taps[layer] for outputs, _ in self.seen])


def stripes(count: int) -> ImageSet:
    """One class after the other, as a folder of classes gives them."""
    pixels, labels = toy_pixels(count, seed=2)
    order = labels.argsort(stable=True)
    names = tuple(map(str, range(CLASSES)))
    return ImageSet("train", pixels[order].numpy(), labels[order].numpy(), names, "code")


def test_a_share_of_each_class_at_equal_steps() -> None:
    labels = np.repeat([0, 1, 2, 3], [600, 300, 60, 5])
    chosen = evenly_chosen(labels, 100)
    assert np.bincount(labels[chosen]).tolist() == [62, 31, 20, 5]
    steps = np.diff(np.flatnonzero(chosen & (labels == 0)))
    assert set(steps.tolist()) == {9, 10}
    mixed = np.random.default_rng(0).permutation(labels)
    assert np.bincount(mixed[evenly_chosen(mixed, 100)]).tolist() == [62, 31, 20, 5]


@pytest.mark.parametrize("most", [None, 965, 2000])
def test_all_of_a_set_that_is_not_larger(most: int | None) -> None:
    assert evenly_chosen(np.arange(965) % 7, most).all()


def test_maps_are_those_of_the_chosen_inputs() -> None:
    data = stripes(300)
    few, everything, averages = (
        Recorder(maps=True, enough=90), Recorder(maps=True), Recorder(maps=False)
    )  # fmt: skip
    fit_detectors(toy_classifier(), [few, everything, averages], data, data)
    with torch.no_grad():
        wanted = toy_classifier()(torch.from_numpy(data.inputs))
    rows = torch.from_numpy(evenly_chosen(data.labels, 90))
    for layer, tap in wanted.taps.items():
        torch.testing.assert_close(everything.joined(layer), tap)
        torch.testing.assert_close(few.joined(layer), tap[rows])
        spatial = tap.flatten(2).mean(2) if tap.dim() == 4 else tap
        torch.testing.assert_close(averages.joined(layer), spatial)
    given = torch.cat([labels for _, labels in few.seen])
    assert torch.equal(given, torch.from_numpy(data.labels)[rows])
    logits = torch.cat([outputs.logits for outputs, _ in few.seen])
    torch.testing.assert_close(logits, wanted.logits[rows])
    assert len(few.seen) == 2  # gathered to whole batches: 64 and the rest


def test_a_part_says_of_fssd_what_all_say() -> None:
    data, held_out = stripes(6000), stripes(400)
    part, all_of_it = Fssd(), Fssd()
    part.enough = 1000  # type: ignore[misc]
    all_of_it.enough = None  # type: ignore[misc]
    fit_detectors(toy_classifier(), [part, all_of_it], data, held_out)
    with torch.no_grad():
        outputs = toy_classifier()(toy_pixels(500, seed=9)[0])
        found, wanted = part(outputs), all_of_it(outputs)
    assert not torch.equal(found["fssd_density"], wanted["fssd_density"])
    both = torch.stack([found["fssd_density"], wanted["fssd_density"]])
    assert float(both.corrcoef()[0, 1]) > 0.99
    means = both.mean(1)
    assert float(means[0]) == pytest.approx(float(means[1]), rel=0.1)
    assert torch.equal(found["fssd"], wanted["fssd"])  # of noise alone


def test_values_that_are_not_finite_are_found_and_large_ones_are_not() -> None:
    large = torch.full((4, 3), 3e38)  # their sum is none
    assert all_finite(large)
    assert finite(large) is not None
    for value in (torch.nan, torch.inf, -torch.inf):
        broken = torch.zeros(4, 3)
        broken[2, 1] = value
        assert not all_finite(broken)
        with pytest.raises(FitError):
            finite(broken)
    assert not all_finite(torch.tensor([torch.inf, -torch.inf]))
