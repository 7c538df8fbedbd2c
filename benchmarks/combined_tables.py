"""The tables of docs/combined.md, out of committed results:  python -m benchmarks.combined_tables

The study's come from results/combined_study.json, those of the test sets from the reports of
benchmarks and bundles.  Each replaces what stands between its two marks in the page.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.page_blocks import fill, table
from training.evaluation.records import Report
from training.evaluation.report import read_report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "combined.md"
RESULT = ROOT / "benchmarks" / "results" / "combined_study.json"
_BEST = 12
_WORDS = 5  # more members than this are counted, not named


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends, for every config studied."""
    study: dict[str, Any] = json.loads(RESULT.read_text())
    found: dict[str, str] = {}
    for name, part in study.items():
        found[f"{name}: strategies"] = _strategies(part)
        found[f"{name}: kinds"] = _by_kind(part)
        found[f"{name}: scores"] = _alone(part)
        found[f"{name}: test sets"] = _test_sets(name, part)
    return found


def filled(page: str) -> str:
    """The page with every block of today; ValueError where one has no place in it."""
    return fill(page, blocks(), PAGE.name)


def _strategies(part: Mapping[str, Any]) -> str:
    best, rest = part["outcomes"][:_BEST], part["outcomes"][_BEST:]
    kept = best + [row for row in rest if row["search"] in ("single", "fixed")]
    rows = [
        [row["strategy"], _named(row["members"]), *_percent(row, "left_out_worst", "left_out_mean")]
        for row in kept
    ]
    return table(["strategy", "members, chosen on all kinds", "worst", "mean"], rows)


def _by_kind(part: Mapping[str, Any]) -> str:
    kinds: list[str] = part["kinds"]
    earlier = next(row for row in part["outcomes"] if row["search"] == "fixed")
    rows = [
        [row["strategy"], *_percent(row["left_out"], *kinds)]
        for row in (part["chosen"], part["single"], earlier)
    ]
    return table(["strategy", *kinds], rows)


def _alone(part: Mapping[str, Any]) -> str:
    kinds: list[str] = part["kinds"]
    ranked = sorted(part["members"].items(), key=lambda item: -sum(item[1].values()))
    rows = [[f"`{member}`", *_percent(areas, *kinds)] for member, areas in ranked[:_BEST]]
    return table(["score", *kinds], rows)


def _test_sets(name: str, part: Mapping[str, Any]) -> str:
    report = _report_with(name, part["chosen"])
    if report is None:
        return "Not measured yet: no committed report holds this `combined`.\n"
    single = part["single"]["members"][0]
    shown = list(dict.fromkeys(["combined", single, "energy", "mahalanobis_ensemble"]))
    rows = []
    for ood_set in (s.name for s in report.ood_sets if s.role == "ood"):
        areas = {row.detector: row.metrics.auroc for row in report.rows if row.ood_set == ood_set}
        alone = {score: area for score, area in areas.items() if score in part["members"]}
        best = max(alone, key=lambda score: alone[score])
        figures = _percent(areas, *shown)
        rows.append([ood_set, *figures, f"{100 * alone[best]:.2f} (`{best}`)"])
    header = ["test set", *(f"`{score}`" for score in shown)]
    return table([*header, "best single, in hindsight"], rows)


def _report_with(name: str, chosen: Mapping[str, Any]) -> Report | None:
    """The benchmark's report, else the newest bundle's, whose `combined` is the chosen one."""
    bundles = list((ROOT / "models" / name).glob("[0-9]*/report.json"))
    bundles.sort(key=lambda path: int(path.parent.name))
    for path in (ROOT / "benchmarks" / "results" / name / "report.json", *reversed(bundles)):
        if not path.exists():
            continue
        report = read_report(path)
        combiners: Any = report.config["combiners"]
        entry = next(entry for entry in combiners if entry["name"] == "combined")
        same = list(entry["members"]) == chosen["members"]
        if same and entry["rule"] == chosen["rule"]:
            return report
    return None


def _named(members: Sequence[str]) -> str:
    if len(members) > _WORDS:
        return f"all {len(members)}"
    return ", ".join(f"`{member}`" for member in members)


def _percent(values: Mapping[str, float], *names: str) -> list[str]:
    return [f"{100 * values[name]:.2f}" for name in names]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
