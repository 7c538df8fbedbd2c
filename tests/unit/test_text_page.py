"""docs/text.md says what the results, the readers and the commands are."""

import gzip
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from benchmarks.text_tables import NEWSGROUPS, PAGE, SEQUENCES, filled
from training.benchmarks import BENCHMARKS
from training.config import TextConfig, load_config
from training.config_checks import check_config
from training.data import load_roles
from training.data.derived_texts import TEXT_PROXIES
from training.data.readers import TEXT_SOURCES
from training.published import NEWSGROUPS_MEANS, PUBLISHED
from training.reporting import imbalance_remarks

TEXT = PAGE.read_text(encoding="utf-8")
CONFIGS = Path(__file__).parents[2] / "training" / "configs"
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()
]


def test_the_tables_are_those_of_the_results() -> None:
    assert filled(TEXT) == TEXT, "run python -m benchmarks.text_tables"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_what_exists(command: str) -> None:
    """They take minutes; what they start is tested part by part."""
    executable, *arguments = shlex.split(command)
    if executable == ".venv/bin/python":
        flag, module, *_ = arguments
        assert flag == "-m"
        assert importlib.util.find_spec(module) is not None
    else:
        assert executable == ".venv/bin/oodscore-train"
        verb, name, *_ = arguments
        assert verb == "benchmark"
        assert name in BENCHMARKS


def test_every_source_and_proxy_is_named() -> None:
    for name in (*TEXT_SOURCES, *TEXT_PROXIES):
        assert f"`{name}`" in TEXT


@pytest.mark.parametrize(
    ("config", "sets"), [("newsgroups.toml", NEWSGROUPS), ("sequences.toml", SEQUENCES)]
)
def test_the_tables_have_every_set(config: str, sets: tuple[str, ...]) -> None:
    assert tuple(load_config(CONFIGS / config).data.test_ood) == sets


def test_published_figures_are_of_scores_that_are_measured() -> None:
    config = load_config(CONFIGS / "newsgroups.toml")
    measured = {entry.name for entry in config.detectors}
    assert set(NEWSGROUPS_MEANS) <= measured
    for (ood_set, detector), records in PUBLISHED[config.name].items():
        assert ood_set in config.data.test_ood
        values = {record.metric: record.value for record in records}
        assert values == NEWSGROUPS_MEANS[detector]
        assert all(record.explanation for record in records)


def test_the_config_of_the_page_reads_texts_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```toml\n(name = .*?)```", TEXT, re.DOTALL)
    (tmp_path / "tickets.toml").write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [
        f'{number};"order {number} was\n{rng.choice(["late", "lost", "wrong"])}";{number % 3}\n'
        for number in range(3600)
    ]
    Path("tickets.csv").write_text("id;body;department\n" + "".join(rows), encoding="utf-8")
    spam = "".join(json.dumps({"message": f"win {n} times"}) + "\n" for n in range(20))
    Path("spam.jsonl.gz").write_bytes(gzip.compress(spam.encode()))
    config = load_config(Path("tickets.toml"))
    check_config(config)
    assert isinstance(config.form, TextConfig)
    roles = load_roles(config.data, config.form, 0)
    assert roles.counts() == {
        "train_id": 1900,
        "dev_id": 200,
        "cal_id": 1000,
        "test_id": 500,
        "spam": 20,
        "id_rewritten": 500,
    }
    assert roles.train_id.class_names == ("0", "1", "2")


def test_classes_of_very_different_sizes_are_said() -> None:
    assert imbalance_remarks({"often": 199, "seldom": 100}) == []
    (remark,) = imbalance_remarks({"often": 1200, "middle": 600, "seldom": 600, "rare": 40})
    assert "1,200 inputs of 'often', 40 of 'rare'" in remark


def test_the_cost_of_serving_is_the_measured_one() -> None:
    result = CONFIGS.parents[1] / "benchmarks" / "results" / "text_throughput.json"
    measured = json.loads(result.read_text())
    for size, found in measured["texts_a_request"].items():
        speed = round(found["service"]["texts_per_second"])
        ratios = (found["processor_ratio"], found["wall_ratio"])
        cells = [f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in ratios]
        assert f"| {size} | {speed} | {cells[0]} | {cells[1]} |" in TEXT
