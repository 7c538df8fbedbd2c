"""docs/scores.md explains every detector of the registries, and its pictures are their code's."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.score_pictures import FOLDER, NAMES, draw
from benchmarks.score_world import ScoreWorld, grid, make_world, points, scored
from training.detectors import DETECTORS, HEAD_OF, READS_OUTLIERS
from training.detectors.energy import Energy
from training.graph_detectors import GRAPH_DETECTORS

PAGE = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE))


def test_every_detector_has_its_entry_once() -> None:
    assert sorted(re.findall(r"^### `(\w+)`", PAGE, re.MULTILINE)) == sorted(
        DETECTORS | GRAPH_DETECTORS
    )
    assert set(NAMES) == set(ENTRIES)


@pytest.mark.parametrize("name", NAMES)
def test_three_sentences_and_a_picture(name: str) -> None:
    picture, *sentences = [line for line in ENTRIES[name].splitlines() if line]
    assert picture.startswith(f'<img src="scores/{name}.png" width="180" alt="')
    assert len(sentences) == 3
    for sentence in sentences:
        assert sentence.endswith((".", "))."))
        bare = re.sub(r"\(.*?\)\)?|`.*?`", "", sentence)
        assert bare.count(". ") == 0
    with Image.open(FOLDER / f"{name}.png") as opened:
        drawn = np.asarray(opened.convert("L"))
    assert drawn.std() > 10
    assert (FOLDER / f"{name}.png").stat().st_size < 30_000


def test_no_picture_is_left_over() -> None:
    assert {file.stem for file in FOLDER.glob("*.png")} == set(NAMES)


def test_those_made_with_outliers_stand_under_that_heading() -> None:
    (section,) = re.findall(r"^## Made with outliers\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"^### `(\w+)`", section, re.MULTILINE)) == set(HEAD_OF) | READS_OUTLIERS


@pytest.fixture(scope="module")
def world() -> ScoreWorld:
    return make_world()


def test_the_world_is_a_square_of_inputs_that_the_network_knows(world: ScoreWorld) -> None:
    plane = grid().reshape(-1, 2)
    assert plane[0].tolist() == [0, 0]
    assert plane[1].tolist() == [2, 0], "the first pixel runs along the picture"
    images, labels = points(300, seed=9)
    outputs = world.classifier(_tensor(images))
    assert (outputs.logits.argmax(1).numpy() == labels).mean() > 0.97
    expected = Energy()(outputs)["energy"].detach().numpy()
    np.testing.assert_allclose(scored(world, "energy", images), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["mahalanobis", "odin"])
def test_a_picture_is_drawn_as_it_is_shipped(world: ScoreWorld, name: str, tmp_path: Path) -> None:
    """Up to what another processor makes of it."""
    draw(world, name, tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as new, Image.open(FOLDER / f"{name}.png") as old:
        assert new.size == old.size
        shades = [np.asarray(each.convert("L"), float) for each in (new, old)]
    assert np.corrcoef(*(each.ravel() for each in shades))[0, 1] > 0.9


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images)
