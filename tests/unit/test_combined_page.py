"""docs/combined.md and the configs are what the committed study says, and it followed its rule."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import combined_study
from benchmarks.combined_tables import PAGE, RESULT, filled
from benchmarks.member_search import Outcome, Strategy, choose
from training.config import DataConfig, RunConfig, load_config
from training.data.derived import PROXIES
from training.data.derived_texts import TEXT_PROXIES

STUDY: dict[str, Any] = json.loads(RESULT.read_text())
CONFIGS = {
    config.name: config
    for path in (Path(__file__).parents[2] / "training" / "configs").glob("*.toml")
    if (config := load_config(path)).name in STUDY
}
KINDS = {"image": PROXIES, "text": TEXT_PROXIES}
FASHION = STUDY["fashion-mnist"]


def figures(name: str, part: dict[str, Any]) -> Iterator[dict[str, float]]:
    for row in (*part["outcomes"], part["chosen"], part["single"]):
        yield row[name]


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run python -m benchmarks.combined_tables"


@pytest.mark.parametrize("name", sorted(STUDY))
def test_the_config_holds_the_choice(name: str) -> None:
    chosen = STUDY[name]["chosen"]
    (entry,) = [entry for entry in CONFIGS[name].combiners if entry.name == "combined"]
    assert list(entry.members) == chosen["members"]
    assert entry.rule == chosen["rule"]
    assert (entry.standardisation or "mad") == chosen["standardisation"]
    assert entry.weights == "equal"
    assert CONFIGS[name].primary == "combined"


@pytest.mark.parametrize("name", sorted(STUDY))
def test_the_choice_followed_the_rule(name: str) -> None:
    part = STUDY[name]
    outcomes = []
    for row in part["outcomes"]:
        fixed = tuple(row["members"]) if row["search"] == "fixed" else ()
        how = (row["rule"], row["standardisation"], row["layer_weights"])
        strategy = Strategy(row["search"], *how, fixed)
        assert strategy.label == row["strategy"]
        outcomes.append(Outcome(strategy, row["left_out"], {}, tuple(row["members"]), row["seen"]))
        assert row["left_out_mean"] == pytest.approx(
            np.mean(list(row["left_out"].values())), abs=2e-5
        )
        assert row["left_out_worst"] == min(row["left_out"].values())
    assert {o.strategy for o in outcomes} == set(combined_study.strategies())
    assert choose(outcomes).strategy.label == part["chosen"]["strategy"]
    assert list(choose(outcomes).members) == part["chosen"]["members"]


@pytest.mark.parametrize("name", sorted(STUDY))
def test_only_proxy_outliers_were_read(name: str) -> None:
    config = CONFIGS[name]
    kinds = list(KINDS[config.modality])
    assert STUDY[name]["kinds"] == kinds
    assert not set(kinds) & set(config.data.test_ood)
    for areas in (*figures("left_out", STUDY[name]), *figures("seen", STUDY[name])):
        assert set(areas) == set(kinds)


@pytest.mark.parametrize("name", sorted(STUDY))
def test_the_study_asks_for_no_test_ood(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Asked(Exception):
        pass

    def note(data: DataConfig, spec: object, seed: int) -> None:
        assert data.test_ood == {}
        assert data.proxy_ood == tuple(KINDS[config.modality])
        raise Asked

    monkeypatch.setattr(combined_study, "load_roles", note)
    config: RunConfig = CONFIGS[name]
    assert config.data.test_ood
    with pytest.raises(Asked):
        combined_study.score_network(config)


def test_the_sentences_about_fashion_mnist() -> None:
    """What the page says in words under its first tables."""
    page = " ".join(PAGE.read_text().split())
    chosen, single, members = FASHION["chosen"], FASHION["single"], FASHION["members"]
    rows = {row["strategy"]: row for row in FASHION["outcomes"]}
    (earlier,) = [row for row in FASHION["outcomes"] if row["search"] == "fixed"]

    def printed(pattern: str) -> list[float]:
        (found,) = re.findall(pattern, page)
        return [float(number) for number in ([found] if isinstance(found, str) else found)]

    def per_cent(*shares: float) -> list[float]:
        return [round(100 * share, 1) for share in shares]

    assert printed(
        r"([\d.]+) on the kinds left out, where .* gets ([\d.]+) and .* pair ([\d.]+);"
    ) == (per_cent(*(row["left_out_mean"] for row in (chosen, single, earlier))))
    assert all(chosen["left_out"][kind] > single["left_out"][kind] for kind in PROXIES)
    seen = float(np.mean(list(chosen["seen"].values())))
    assert printed(r"the chosen `combined` has ([\d.]+),") == per_cent(seen)
    assert 0.005 < seen - chosen["left_out_mean"] < 0.015  # "a point more"
    first = members["fssd_conv1"]
    assert printed(r"more ID than ID \(([\d.]+)\)") == per_cent(first["jigsaw"])
    assert printed(r"any other single score \(([\d.]+);") == per_cent(first["mixup"])
    assert max(members, key=lambda name: members[name]["mixup"]) == "fssd_conv1"
    for label in rows:
        learnt = f"{label}, learnt layers"
        if label.startswith("greedy") and learnt in rows:
            assert rows[label]["left_out_mean"] > rows[learnt]["left_out_mean"]
        if label.startswith("all") and learnt in rows:
            assert abs(rows[label]["left_out_mean"] - rows[learnt]["left_out_mean"]) < 0.004
    best_pair = max(r["left_out_mean"] for r in rows.values() if r["search"] == "pair")
    best_of_all = max(r["left_out_mean"] for r in rows.values() if r["search"] == "all")
    assert best_pair - single["left_out_mean"] < 0.006
    assert best_of_all < chosen["left_out_mean"]
    assert len(rows) == 39
