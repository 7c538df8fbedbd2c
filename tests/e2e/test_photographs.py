"""Photographs taken by people, as anyone may send them, on the shipped cifar10 bundle."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "deploy" / "demo"


@cache
def answers() -> dict[str, Any]:
    """File name -> result, as the command of the README gives them."""
    executable = Path(sys.executable).with_name("oodscore")
    files = [DEMO / "cat.jpg", DEMO / "coffee.jpg"]
    done = subprocess.run(
        [executable, "score", *files, "--model", "cifar10", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {file.name: line for file, line in zip(files, lines, strict=True)}


def test_a_cat_is_one_of_the_ten_things() -> None:
    answer = answers()["cat.jpg"]
    assert answer["decision"] == "ID"
    assert answer["label"] in ("cat", "dog")  # small networks take one for the other


def test_a_cup_of_coffee_is_stranger_than_a_cat() -> None:
    cat, coffee = answers()["cat.jpg"], answers()["coffee.jpg"]
    assert coffee["score"] > cat["score"]
    assert coffee["p_value"] < cat["p_value"] / 2


def test_the_photographs_are_small_and_their_licence_is_stated() -> None:
    licence = (DEMO / "LICENSE.md").read_text()
    for name in ("cat.jpg", "coffee.jpg"):
        assert (DEMO / name).stat().st_size < 60_000
        assert f"`{name}`" in licence
        with Image.open(DEMO / name) as image:
            assert min(image.size) >= 128  # the service makes it small, not this file
            assert not image.getexif()
