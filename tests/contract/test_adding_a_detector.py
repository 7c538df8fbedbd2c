"""Every step of docs/adding-a-detector.md, done as it says on a copy of the code."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from own_models import write_photos

from service.bundle import FORWARD, read_manifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-detector.md").read_text(encoding="utf-8")
SHELL = [block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ENTRIES = {"oodscore": "service.cli", "oodscore-train": "training.cli"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with the page's detector in it."""
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    for part in ("service", "training", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    detectors = folder / "training" / "detectors"
    source, registry, test = PYTHON
    assert not (detectors / "cosine.py").exists(), "the example is no shipped detector"
    (detectors / "cosine.py").write_text(source, encoding="utf-8")
    imported, entry = registry.splitlines()
    init = (detectors / "__init__.py").read_text(encoding="utf-8")
    before = "from training.detectors.dice import"
    assert init.count(before) == init.count('    "dice": Dice,') == 1
    init = init.replace(before, f"{imported}\n{before}")
    init = init.replace('    "dice": Dice,', f'{entry}\n    "dice": Dice,')
    (detectors / "__init__.py").write_text(init, encoding="utf-8")
    (folder / "tests" / "unit" / "test_cosine.py").write_text(test, encoding="utf-8")
    return folder


def run(command: str, code: Path, folder: Path) -> str:
    """As a shell would, with the code of the copy."""
    program, *arguments = shlex.split(command)
    start = [sys.executable]
    if program != "python":
        start += ["-c", f"from {ENTRIES[program]} import main; main()"]
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_suites_take_the_new_detector(copy: Path) -> None:
    """Both commands in one call: most of their time is importing torch."""
    conformance, formula = (block[0] for block in SHELL[:2])
    kept = "test_far_ood or test_a_score_ignores or test_state or test_an_unfitted or cosine_is"
    wanted = re.sub(r'-k ".*"', f'-k "cosine and ({kept})"', conformance)
    assert wanted != conformance
    path = formula.split()[-1]
    summary = run(f"{wanted} {path} -p no:cacheprovider", copy, copy)
    passed = re.search(r"(\d+) passed", summary)
    assert passed is not None
    assert int(passed[1]) == 6, summary


@pytest.mark.slow
def test_the_conformance_command_as_it_stands(copy: Path) -> None:
    summary = run(SHELL[0][0] + " -p no:cacheprovider", copy, copy)
    assert re.search(r"\d+ passed", summary)
    assert "failed" not in summary


def test_it_is_trained_exported_verified_and_served(copy: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    (config,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "photos.toml").write_text(config, encoding="utf-8")
    train, show, ask = SHELL[2]
    bundle = tmp_path / run(train, copy, tmp_path).strip()
    manifest = read_manifest(bundle)
    specs = {spec.name: spec for spec in manifest.detectors}
    assert set(specs) == {"cosine", "energy"}
    assert specs["cosine"].cost == "features"
    assert (bundle / FORWARD).exists()
    with np.load(bundle / "golden.npz") as golden:
        assert np.ptp(golden["output:score/cosine"]) > 0
    assert "cosine" in run(show, copy, tmp_path)
    # the service's own code, which knows nothing of this detector
    (line,) = run(f"{ask} --json", ROOT, tmp_path).splitlines()
    answer = json.loads(line)
    assert answer["detector"] == "cosine"
    assert 0 <= answer["score"] <= 2
