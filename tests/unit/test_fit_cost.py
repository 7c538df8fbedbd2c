"""What fitting costs: the page follows from the record, and the harness measures what it says."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import fit_cost
from benchmarks.fit_tables import PAGE, costs, filled
from service.bundle import ImageInput
from training.backbones import BACKBONES
from training.classifier import ImageClassifier
from training.data import ImageSet
from training.detectors import DETECTORS, HEAD_OF, READS_OUTLIERS


def test_the_page_holds_the_recorded_figures() -> None:
    page = PAGE.read_text()
    assert filled(page) == page


def test_every_detector_of_one_pass_over_id_is_measured() -> None:
    left_out = set(DETECTORS) - set(fit_cost.DETECTORS_OF_ONE_PASS)
    assert left_out == set(HEAD_OF) | READS_OUTLIERS
    for record in json.loads(fit_cost.RESULT.read_text()).values():
        assert set(record["detectors"]) == set(fit_cost.DETECTORS_OF_ONE_PASS)


def test_a_batch_is_run_and_given_once() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    labels = np.arange(40) % 10
    data = ImageSet("train", pixels, labels, tuple("0123456789"), "code")
    torch.manual_seed(0)
    spec = ImageInput(height=28, width=28, channels=1, mean=(0.3,), std=(0.3,))
    classifier = ImageClassifier(BACKBONES["lenet"](1, 10), spec).eval()
    calls: list[int] = []
    handle = classifier.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    found = fit_cost.time_round(classifier, data, data, ("energy", "knn", "mahalanobis"))
    handle.remove()
    # twice plain and once fitting over train-ID, fitting over dev-ID: one batch each
    assert calls == [40, 40, 40, 40]
    assert found.forward > 0
    assert sum(found.streamed.values()) + sum(found.fixed.values()) <= found.fit


def test_ratios_of_all_and_of_some() -> None:
    """10 s for 100 images and as much inside, 1 s for 10 of dev-ID; 2 s for them, 3 s fixed."""
    found = fit_cost.Round(100, 10, 10.0, 16.0, {"knn": 0.5, "kde": 1.5}, {"knn": 1.0, "kde": 2.0})
    assert found.ratio(100) == pytest.approx(1.6)
    assert found.ratio(1000) == pytest.approx((100 + 20 + 1 + 3) / 100)
    assert found.ratio(1000, ["knn"]) == pytest.approx((100 + 5 + 1 + 1) / 100)


def test_a_table_of_a_record() -> None:
    record: dict[str, Any] = {
        "environment": {"commit": "abc", "machine": {"processor": "some"}},
        "images": 5_000, "rounds": 3, "threads": 1,
        "forward_seconds": [10.0, 11.0, 12.0], "fit_seconds": [12.0, 13.0, 15.0],
        "ratio": 1.3, "ratio_at_50000": 1.2, "default_ratio_at_50000": 1.1,
        "beyond_network_mb": 1200,
        "detectors": {
            "knn": {"an_image_ms": 0.01, "fixed_seconds": 0.5},
            "kde": {"an_image_ms": 0.001, "fixed_seconds": 2.0},
            "msp": {"an_image_ms": 0.0, "fixed_seconds": 0.0},
            "vim": {"an_image_ms": 0.004, "fixed_seconds": 0.0},
        },
    }  # fmt: skip
    lines = costs({"lenet": record}).splitlines()
    assert lines[2] == (
        "| LeNet, 28 x 28 | 5,000 | 11.0 | 13.0 | 1.30x | 1.20x | 1.10x | 1,200 MB | "
        "kde 2.0, knn 1.0, vim 0.2 |"
    )
    assert lines[-1].endswith("1 thread(s), median of 3 rounds, 4 detectors.")


def test_too_few_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((5, 28, 28, 1), np.uint8)
    few = ImageSet("train", pixels, np.zeros(5, np.int64), ("a",), "five images")
    monkeypatch.setattr(fit_cost, "load_first", lambda *_: few)
    _, config = fit_cost.network("lenet")
    with pytest.raises(SystemExit, match="five images has 5 images, not 50000"):
        fit_cost.images(config, 50_000)
