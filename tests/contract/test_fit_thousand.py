"""A thousand classes: what the data support is fitted, what they do not is refused; at 224 pixels
in the memory of a laptop."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_models import Colours, palette, write_weights
from typer.testing import CliRunner

from service.bundle import FORWARD, read_manifest
from training.cli import app
from training.export import open_network
from training.fit import Sizes, need_of
from training.fit.needs import shortage

ROOT = Path(__file__).parents[2]
LIMIT_MB = 2500  # of the whole process, torch and onnxruntime included; more threads take more


def words(folder: Path, side: int, data: str, held_out: str) -> list[str]:
    write_weights(palette(), folder / "palette.safetensors")
    given = ["fit", "own_models:Palette", "--weights", str(folder / "palette.safetensors")]
    given += ["--size", str(side), "--mean", "0,0,0", "--std", "1,1,1", "--name", "palette"]
    given += ["--data", data, "--held-out", held_out, "--test", held_out]
    return [*given, "--models", str(folder / "models")]


def test_a_thousand_classes_with_three_images_each(tmp_path: Path) -> None:
    given = words(tmp_path, 16, "own_models:Colours", "own_models:HeldOutColours")
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "mahalanobis: needs 2,000, 2 of each class; good from 2,016" in result.stderr
    assert "knn: needs 2; good from 100,000  (fewer than advised)" in result.stderr
    assert "left out" not in result.stderr
    bundle = Path(result.stdout.splitlines()[-1])
    manifest = read_manifest(bundle)
    assert {"mahalanobis", "rmds", "knn", "vim"} <= {each.name for each in manifest.detectors}
    held_out = Colours(1, seed=2)
    pixels = np.stack([held_out[index][0] for index in range(0, 1000, 20)])
    noise = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    network = open_network(bundle / FORWARD)
    given_logits = network(pixels)["logits"].argmax(1)
    assert (given_logits == held_out.targets[::20]).mean() > 0.95
    near, far = (network(each)["score/mahalanobis"] for each in (pixels, noise))
    assert np.median(far) > np.median(near)


def test_what_few_images_cannot_support_is_left_out_and_refused(tmp_path: Path) -> None:
    """1,000 images, one of each class."""
    given = words(tmp_path, 16, "own_models:HeldOutColours", "own_models:HeldOutColours")
    asked = CliRunner().invoke(app, [*given, "--detectors", "mahalanobis,openmax,energy"])
    assert asked.exit_code == 1
    said = str(asked.exception)
    assert "mahalanobis needs 2 inputs of each of 1000 classes" in said
    assert "openmax needs 3 inputs of each of 1000 classes" in said
    assert "energy" not in said
    assert not (tmp_path / "models").exists()


def test_covariances_of_a_thousand_classes_are_refused() -> None:
    """1,280 features, as EfficientNet has: 13 GB of them."""
    sizes = Sizes(1000, 1280, 1280, 1400)
    assert "13,107 MB; the limit is 500 MB" in str(shortage("gda", sizes, [100] * 1000))
    assert need_of("mahalanobis", sizes).advised == 2 * 1280 + 2 * 1000
    assert shortage("mahalanobis", sizes, [2] * 1000) is None


@pytest.mark.slow
def test_a_thousand_classes_of_224_pixels_in_the_memory_of_a_laptop(tmp_path: Path) -> None:
    given = words(tmp_path, 224, "own_models:LargeColours", "own_models:LargeHeldOutColours")
    code = (
        "import sys\nfrom benchmarks.peak_memory import peak_bytes\n"
        "from training.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('peak', peak_bytes() // 1_000_000)"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done: Any = subprocess.run(
        [sys.executable, "-c", code, *given],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(re.findall(r"peak (\d+)", done.stdout)[0]) < LIMIT_MB
    # all 3,000 images at once would be 450 MB, as float32 1.8 GB
    assert (tmp_path / "models" / "palette" / "1" / "manifest.json").exists()
