"""docs/objectives.md says what the registries, the defaults and the commands are."""

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from toy import SPEC, digits, write_digits
from typer.testing import CliRunner

from training.benchmarks import BENCHMARKS
from training.cli import app
from training.config import ObjectiveConfig, OutliersConfig
from training.data.readers import SOURCES
from training.generators import IMAGE_GENERATORS, TEXT_GENERATORS
from training.objectives import OBJECTIVES
from training.studies import STUDIES

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_table_has_every_objective_with_its_weights(name: str) -> None:
    table = PAGE.split("## The objectives\n")[1].split("\n## ")[0]
    (row,) = re.findall(rf"^\| `{name}` \| (.*)$", table, re.MULTILINE)
    reads, terms, _ = row.split(" | ", 2)
    made = OBJECTIVES[name]()
    assert (reads == "yes") == made.reads_outliers
    shown = dict(part.rsplit(" ", 1) for part in terms.split(", "))
    assert {term: float(weight) for term, weight in shown.items()} == dict(made.weights)


def test_the_sections_of_the_page_are_a_config() -> None:
    block = re.findall(r"```toml\n(\[objective\].*?)```", PAGE, re.DOTALL)[0]
    values = tomllib.loads(block)
    entry = ObjectiveConfig.model_validate(values["objective"])
    objective = OBJECTIVES[entry.name](**entry.options)
    assert set(entry.weights) <= set(objective.weights)
    config = OutliersConfig.model_validate(values["outliers"])
    for sources in config.sources.values():
        assert all(source.source in SOURCES for source in sources)


def test_every_study_and_generator_is_named() -> None:
    for name in (*STUDIES, *IMAGE_GENERATORS, *TEXT_GENERATORS):
        assert f"`{name}`" in PAGE or f"benchmark {name}" in PAGE
    assert not set(STUDIES) & set(BENCHMARKS)


def test_the_command_of_the_page_writes_a_set(tmp_path: Path) -> None:
    """On digits and one epoch, everything else as the page has it."""
    (line,) = re.findall(r"```sh\n(oodscore-train outliers .*?)\n```", PAGE, re.DOTALL)
    _, verb, _, *options = shlex.split(line)
    write_digits(tmp_path)
    config = tmp_path / "digits.toml"
    config.write_text(
        f"""
name = "digits"
description = "digits"
backbone = "lenet"
primary = "msp"
input = {{ height = 28, width = 28, channels = 1, mean = [0.3], std = [0.35] }}
optimiser = {{ name = "adam", lr = 0.001, epochs = 1, batch_size = 50 }}
detectors = [{{ name = "msp" }}]
[data]
train = [{{ source = "npz", path = "{tmp_path}/train.npz" }}]
test = [{{ source = "npz", path = "{tmp_path}/test.npz" }}]
dev_count = 100
cal_count = 100
test_ood = {{}}
"""
    )
    options[options.index("--out") + 1] = str(tmp_path / "garments")
    further = ["--epochs", "1", "--count", "30", "--runs", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [verb, str(config), *options, *further])
    assert result.exit_code == 0, result.output
    found = SOURCES["generated"]("g", SPEC, path=str(tmp_path / "garments"))
    assert len(found) == 30


def test_noisy_images_and_limits(tmp_path: Path) -> None:
    write_digits(tmp_path)
    path = str(tmp_path / "test.npz")
    plain = SOURCES["npz"]("d", SPEC, path=path)
    few = SOURCES["npz"]("d", SPEC, path=path, limit=50)
    assert len(few) == 50
    rows = np.linspace(0, len(plain) - 1, 50).astype(int)
    assert (few.inputs == plain.inputs[rows]).all()
    assert (few.labels == digits()[1][1300:][rows]).all()
    noisy = SOURCES["noisy"]("n", SPEC, path=path, amplitude=0.5, seed=1)
    added = noisy.inputs.astype(int) - plain.inputs
    unclipped = plain.inputs < 100
    assert added[unclipped].mean() == pytest.approx(255 / 4, rel=0.02)
    assert added[unclipped].max() in (127, 128)
    with pytest.raises(ValueError, match="amplitude is 2"):
        SOURCES["noisy"]("n", SPEC, path=path, amplitude=2)
    bright = SOURCES["noise"]("b", SPEC, kind="bright", count=5)
    assert bright.inputs.min() >= 128
