"""`make traffic` on the shipped bundle: garments are taken for ID, the drift is seen."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import live_server

ROOT = Path(__file__).parents[2]
TRAFFIC = ROOT / "deploy" / "demo" / "traffic.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TRAFFIC, *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def only_garments(tmp_path: Path) -> Path:
    """A repository of the one shipped model it asks."""
    (tmp_path / "fashion-mnist").symlink_to(ROOT / "models" / "fashion-mnist")
    return tmp_path


def test_it_sends_garments_and_then_drawings(only_garments: Path) -> None:
    with live_server(only_garments) as running:
        done = run("--url", running.url, "--rate", "20", "--calm", "1", "--drift", "2")
        assert done.returncode == 0, done.stderr
        first = re.match(r"(\d+) garments, 1 s as they are", done.stdout)
        assert first is not None, done.stdout
        assert int(first[1]) >= 5
        value = running.runtime.metrics.registry.get_sample_value
        assert value("oodscore_requests_total", {"route": "/score", "status": "200"})


def test_drawings_become_more_evenly() -> None:
    sys.path.insert(0, str(TRAFFIC.parent))
    try:
        share = runpy.run_path(str(TRAFFIC))["share_of_drawings"]
    finally:
        sys.path.remove(str(TRAFFIC.parent))
    assert [share(passed, 100, 200) for passed in (0, 99, 200, 300, 900)] == [0, 0, 0.25, 0.5, 0.5]
    assert share(500, 100, 0) == 0


def test_it_says_when_nobody_answers() -> None:
    done = run("--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "nobody answers at http://127.0.0.1:1" in done.stderr
