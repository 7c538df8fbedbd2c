"""What a fit has to say is the same from the fitted detector and from a bundle's state file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from linear_world import World, fit, world
from safetensors.torch import load_file, save_file

from training.detectors import DETECTORS, Detector
from training.detectors.dice import Dice
from training.detectors.openmax import OpenMax

TRAIN, HELD_OUT = world(seed=1), world(seed=2, count=400)


def two_a_class() -> World:
    rows = np.concatenate([np.flatnonzero(TRAIN.labels == c)[:2] for c in range(6)])
    return replace(TRAIN, features=TRAIN.features[rows], labels=TRAIN.labels[rows])


def twice() -> World:
    rows = {"features": TRAIN.features, "labels": TRAIN.labels, "outliers": TRAIN.outliers}
    return replace(TRAIN, **{name: np.repeat(values, 2, axis=0) for name, values in rows.items()})


def always_right() -> World:
    return replace(HELD_OUT, labels=HELD_OUT.logits.argmax(1))


def shifted() -> World:
    return replace(TRAIN, features=TRAIN.features - 0.25)


# detector -> how it is made; train-ID and dev-ID that it has something to say of
DOUBTFUL: dict[str, tuple[Callable[[], Detector], World, World]] = {
    "dice": (lambda: Dice(99.0), TRAIN, HELD_OUT),
    "gda": (DETECTORS["gda"], two_a_class(), HELD_OUT),
    "kde": (DETECTORS["kde"], twice(), HELD_OUT),
    "kde_all": (DETECTORS["kde_all"], twice(), HELD_OUT),
    "kl_matching": (
        DETECTORS["kl_matching"],
        TRAIN.without_predictions([5]),
        HELD_OUT.without_predictions([2, 5]),
    ),
    "knn": (DETECTORS["knn"], two_a_class(), HELD_OUT),
    "msp_temperature": (DETECTORS["msp_temperature"], TRAIN, always_right()),
    "nnguide": (DETECTORS["nnguide"], two_a_class(), HELD_OUT),
    "openmax": (lambda: OpenMax(tail=100), TRAIN, HELD_OUT),
    "overall_density": (DETECTORS["overall_density"], two_a_class(), HELD_OUT),
    "react": (DETECTORS["react"], shifted(), HELD_OUT),
    "vmdls_b": (DETECTORS["vmdls_b"], two_a_class(), HELD_OUT),
}


def test_every_detector_with_remarks_is_tried_here() -> None:
    speaking = {
        name for name, create in DETECTORS.items() if type(create()).remarks is not Detector.remarks
    }
    assert speaking == set(DOUBTFUL)


@pytest.mark.parametrize("name", sorted(DOUBTFUL))
def test_remarks_and_hyperparameters_survive_a_state_file(name: str, tmp_path: Path) -> None:
    create, train, held_out = DOUBTFUL[name]
    detector = fit(create(), train, held_out)
    said = detector.remarks()
    assert said
    assert all(line.startswith(name) and line.endswith(".") for line in said)
    save_file(detector.state_dict(), tmp_path / "fit.safetensors")
    restored = create()
    restored.restore(load_file(tmp_path / "fit.safetensors"))
    assert restored.remarks() == said
    assert restored.hyperparameters() == detector.hyperparameters()


@pytest.mark.parametrize("name", sorted(DOUBTFUL))
def test_a_good_fit_after_a_doubtful_one_says_nothing_of_it(name: str) -> None:
    create, train, held_out = DOUBTFUL[name]
    detector = fit(create(), train, held_out)
    doubts = detector.remarks()
    large = world(seed=3, count=3000)
    fit(detector, large, HELD_OUT)
    assert detector.remarks() == fit(create(), large, HELD_OUT).remarks()
    assert detector.remarks() != doubts or name == "dice"  # a percentile of 99 is always too much


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("react", {"lowest"}),
        ("kl_matching", {"borrowed", "unseen"}),
        ("openmax", {"class_counts"}),
    ],
)
def test_a_state_file_of_an_earlier_release_scores_without_them(name: str, facts: set[str]) -> None:
    create, train, held_out = DOUBTFUL[name]
    state = fit(create(), train, held_out).state_dict()
    restored = create()
    restored.restore({buffer: value for buffer, value in state.items() if buffer not in facts})
    assert restored(train.outputs(train.features[:3]))[name].shape == (3,)
    assert restored.remarks() == ()
