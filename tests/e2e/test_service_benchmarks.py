"""The benchmarks of the service in small: they run, nobody is lost, what is refused is refused."""

import json
from pathlib import Path

import pytest

from benchmarks.service import compare, half_load, overload, swaps

MODELS = Path(__file__).parents[2] / "models"

pytestmark = pytest.mark.slow


def test_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--contenders", "oodscore", "--workloads", "png-small"]
    compare.main([*arguments, "--models", str(MODELS)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4  # one for each number of clients


def test_overload(capsys: pytest.CaptureFixture[str]) -> None:
    overload.main(["--quick", "--models", str(MODELS), "--workload", "png-small"])
    found = json.loads(capsys.readouterr().out)
    assert set(found["statuses"]) <= {"200", "429", "504"}
    assert found["statuses"]["200"] > 0
    assert found["recovery"] > 0


def test_half_load(capsys: pytest.CaptureFixture[str]) -> None:
    half_load.main(["--quick", "--models", str(MODELS), "--workloads", "png-small"])
    found = json.loads(capsys.readouterr().out)["workloads"]["png-small"]
    assert found["inference_milliseconds"] > 0
    assert 0 <= found["idle_share_of_a_processor"] < 1
    assert set(found["loads"]) == {"half of the peak", "half of one at a time"}
    for load in found["loads"].values():
        assert set(load["statuses"]) == {"200"}
        assert load["milliseconds"]["p50"] > 0
        assert load["bare_milliseconds"]["p99"] >= load["bare_milliseconds"]["p50"] > 0


def test_swaps(capsys: pytest.CaptureFixture[str]) -> None:
    swaps.main(["--quick", "--models", str(MODELS)])
    found = json.loads(capsys.readouterr().out)
    for part in ("before", "during", "after"):
        assert found[part]["lost"] == 0
        assert found[part]["answered"] > 0
