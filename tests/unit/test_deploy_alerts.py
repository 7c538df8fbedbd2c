"""Every alert is tested, explained and routed; every entry of the runbook belongs to an alert."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook.md"


def alerts() -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule
        for path in sorted((PROMETHEUS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def entries() -> dict[str, str]:
    """Heading -> text of the runbook's entries."""
    _, *parts = re.split(r"^## ", RUNBOOK.read_text(), flags=re.M)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


@pytest.fixture(params=sorted(alerts()))
def alert(request: pytest.FixtureRequest) -> dict[str, Any]:
    return alerts()[request.param]


def test_every_alert_has_an_entry_and_every_entry_an_alert() -> None:
    assert alerts()
    assert list(entries()) == list(alerts())


def test_annotations_lead_to_the_entry(alert: dict[str, Any]) -> None:
    page, anchor = alert["annotations"]["runbook"].split("#")
    assert ROOT / page == RUNBOOK
    assert anchor == alert["alert"].lower()
    assert entries()[alert["alert"]].strip().startswith(f"**{alert['labels']['severity']}.**")


def firing_samples(alert: str) -> list[set[str]]:
    """Labels of every sample of the alert that the unit tests expect."""
    return [
        set(re.findall(r"(\w+)=", sample["labels"]))
        for path in (PROMETHEUS / "tests").glob("alerts*.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("promql_expr_test", [])
        if f'alertname="{alert}"' in case["expr"]
        for sample in case["exp_samples"]
    ]


def test_every_alert_is_seen_firing_in_unit_tests(alert: dict[str, Any]) -> None:
    assert firing_samples(alert["alert"])


def test_annotations_use_labels_the_alert_has(alert: dict[str, Any]) -> None:
    annotations = alert["annotations"]
    assert annotations["summary"]
    assert annotations["description"]
    used = set(re.findall(r"\$labels\.(\w+)", "".join(annotations.values())))
    assert all(used <= labels for labels in firing_samples(alert["alert"]))


def test_severities_are_those_that_are_routed(alert: dict[str, Any]) -> None:
    assert alert["labels"] in ({"severity": "page"}, {"severity": "ticket"})


def test_psi_is_never_held_against_a_bare_number() -> None:
    """A constant level is loud about chance in small windows and deaf in large ones."""
    rules = [
        rule
        for path in (PROMETHEUS / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "psi" in rule["expr"]
    ]
    levels = {rule.get("record") for rule in rules} - {None}
    assert levels == {"oodscore:drift_psi:of_alarm"}
    (level,) = (rule["expr"] for rule in rules if "record" in rule)
    assert "oodscore_drift_window_size" in level
    assert "oodscore_calibration_size" in level
    for rule in rules:
        assert not re.search(r"drift_psi\b[^:]*[<>]=?\s*0?\.\d", rule["expr"]), rule
