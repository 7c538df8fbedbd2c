"""Dashboards and rules speak of metrics the service exports, through the provisioned source."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.drift import DriftCollector, DriftOptions, DriftTracker, WindowSize
from service.metrics import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
SOURCES = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
GRAFANA_COLUMNS = 24
_SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}


def exported() -> dict[str, set[str]]:
    """Every sample name the service can export, with its labels."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    names: dict[str, set[str]] = {}
    for attribute in vars(metrics).values():
        if labels := getattr(attribute, "_labelnames", None):
            for family in attribute.describe():
                for suffix in _SUFFIXES[family.type]:
                    names[family.name + suffix] = set(labels) | (
                        {"le"} if suffix == "_bucket" else set()
                    )
    window = WindowSize(2000, 3600)
    for family in DriftCollector(DriftTracker(DriftOptions(window, 30_000))).describe():
        for suffix in _SUFFIXES[family.type]:
            names[family.name + suffix] = {"model", "version", "detector"}
    for family in registry.collect():
        for suffix in _SUFFIXES[family.type]:
            names.setdefault(family.name + suffix, set())
    return names


def recorded() -> list[str]:
    return [
        rule["record"]
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    ]


def rule_queries() -> list[str]:
    return [
        rule["expr"]
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels, those inside collapsed rows included."""
    return [q for p in dashboard["panels"] for q in (p, *p.get("panels", []))]


def queries(dashboard: dict[str, Any]) -> list[str]:
    found = [t["expr"] for p in panels(dashboard) for t in p.get("targets", [])]
    found += [note["expr"] for note in dashboard["annotations"]["list"]]
    return found + [
        v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"
    ]


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\boodscore[_:][A-Za-z0-9_:]+", query))


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def test_there_is_something_to_check() -> None:
    assert DASHBOARDS
    assert RULES
    assert "oodscore_decisions_total" in exported()
    assert exported()["oodscore_p_value_bucket"] == {"model", "version", "detector", "le"}
    assert "oodscore_queue_items" in exported()


def test_rules_read_only_what_the_service_exports() -> None:
    known = exported().keys() | set(recorded())
    assert {name for query in rule_queries() for name in names_in(query)} <= known


def test_panels_read_only_what_is_exported_or_recorded(dashboard: dict[str, Any]) -> None:
    known = exported().keys() | set(recorded())
    used = {name for query in queries(dashboard) for name in names_in(query)}
    assert used
    assert used <= known


def test_selectors_use_labels_the_metric_has(dashboard: dict[str, Any]) -> None:
    labels = exported()
    for query in queries(dashboard) + rule_queries():
        for name, selector in re.findall(r"\b(oodscore_[a-z0-9_]+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*[=!]~?\s*\"", selector)) <= labels[name], query


def test_every_recording_rule_has_a_unit_test() -> None:
    tested = {
        name
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("promql_expr_test", [])
        for name in names_in(case["expr"])
    }
    steps = {name for query in rule_queries() for name in names_in(query)}  # tested through others
    assert set(recorded()) <= tested | steps


def test_data_sources_are_the_provisioned_one(dashboard: dict[str, Any]) -> None:
    (source,) = yaml.safe_load(SOURCES.read_text())["datasources"]
    expected = {"type": source["type"], "uid": source["uid"]}
    for panel in panels(dashboard):
        if panel["type"] not in ("row", "text"):
            assert panel["datasource"] == expected, panel["title"]
            assert panel["targets"], panel["title"]
            assert all(t["datasource"] == expected for t in panel["targets"]), panel["title"]
    for asking in dashboard["templating"]["list"] + dashboard["annotations"]["list"]:
        assert asking["datasource"] == expected, asking["name"]


def test_variables_are_defined(dashboard: dict[str, Any]) -> None:
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert {"model", "version"} <= defined
    used = {n for query in queries(dashboard) for n in re.findall(r"\$\{?(\w+)", query)}
    assert used <= defined | {"__rate_interval", "__interval", "__range"}


def test_panels_are_explained_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    identifiers: set[int] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"], panel["title"]
        assert panel["id"] not in identifiers
        identifiers.add(panel["id"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRAFANA_COLUMNS
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} over {taken[x, y]}"
                taken[x, y] = panel["title"]


def test_dashboards_have_fixed_addresses() -> None:
    uids = [load(path)["uid"] for path in DASHBOARDS]
    assert len(set(uids)) == len(uids)
    assert set(uids) == {"oodscore-overview", "oodscore-model", "oodscore-operations"}
    assert all(load(path).get("id") is None for path in DASHBOARDS)
    assert not [path for path in DASHBOARDS if "__inputs" in load(path)]
