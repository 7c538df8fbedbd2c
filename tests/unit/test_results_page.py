"""docs/results.md is what the JSON results say, to the digit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results_page import NOTES, OTHERS, PAGE, RESULTS, ROOT, page
from training.active.own_studies import OWN_STUDIES
from training.studies import STUDIES
from training.suite.catalogue import EXPERIMENTS

TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
SOURCES = {
    title: ROOT / found[1]
    for title, body in SECTIONS.items()
    if (found := re.search(r"\[((?:benchmarks|models)/[^]]*\.json)\]\(\.\./", body))
}
NETWORKS = sorted(title for title, path in SOURCES.items() if path.name == "report.json")


def test_the_page_is_that_of_the_results() -> None:
    assert page() == TEXT, "run python -m benchmarks.results_page"


def test_every_result_is_on_the_page_and_every_other_experiment_is_named() -> None:
    assert {SOURCES[other.title] for other in OTHERS} == {RESULTS / other.file for other in OTHERS}
    for name in EXPERIMENTS:
        path = (
            RESULTS / name / ("study.json" if name in {*STUDIES, *OWN_STUDIES} else "report.json")
        )
        assert (f"`{name}`" in SECTIONS) == path.exists()
        assert (f"| `{name}` |" in SECTIONS["Not measured here yet"]) != path.exists()
    bundles = {f"Bundle `{folder.name}/" for folder in (ROOT / "models").iterdir()}
    assert all(any(title.startswith(bundle) for title in SECTIONS) for bundle in bundles)


def test_every_network_and_study_has_a_remark() -> None:
    shown = {title.strip("`") for title in SECTIONS if title.strip("`") in EXPERIMENTS}
    shown |= {f"models/{folder.name}" for folder in (ROOT / "models").iterdir()}
    assert shown == set(NOTES)
    for note in NOTES.values():
        assert note.strip() in TEXT


def raw(title: str) -> dict[str, Any]:
    return json.loads(SOURCES[title].read_text(encoding="utf-8"))


def tables(title: str) -> list[list[dict[str, str]]]:
    """Every Markdown table of a section as rows by column."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", SECTIONS[title], re.MULTILINE):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")
        ]
        header, _, *rows = lines[:-1]
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


@pytest.mark.parametrize("title", NETWORKS)
def test_the_figures_of_a_network_are_those_of_its_json(title: str) -> None:
    """Read without the page's own code: each AUROC, interval and published figure."""
    report = raw(title)
    cells = {(row["ood_set"], row["detector"]): row for row in report["rows"]}
    scores, *others = tables(title)
    assert len(scores) >= 8
    for shown in scores:
        detector = shown["score"].removesuffix(" (decides)").strip("`")
        for column, text in shown.items():
            if column in ("score", "mean"):
                continue
            row = cells[column.removesuffix(" (control)"), detector]
            low, high = row["auroc_interval"]
            area = row["metrics"]["auroc"]
            assert text == f"{100 * area:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        sets = [s["name"] for s in report["ood_sets"] if s["role"] == "ood"]
        mean = sum(cells[name, detector]["metrics"]["auroc"] for name in sets) / len(sets)
        assert shown["mean"] == f"{100 * mean:.1f}"
    published = {
        (key, round(100 * each["value"], 1), f"{100 * row['metrics'][each['metric']]:.1f}")
        for key, row in cells.items()
        for each in row["published"]
    }
    given = {
        ((line["OOD set"], line["score"].strip("`")), float(line["published"]), line["ours"])
        for table in others
        for line in table
    }
    assert given == published
    assert (
        f"seed{'s' if len(report['seeds']) > 1 else ''} {', '.join(map(str, report['seeds']))};"
        in TEXT
    )
    assert report["machine"].get("commit", "not recorded") in SECTIONS[title]


@pytest.mark.parametrize("title", [f"`{n}`" for n in sorted(STUDIES) if f"`{n}`" in SECTIONS])
def test_the_figures_of_a_study_are_those_of_its_json(title: str) -> None:
    arms = raw(title)["arms"]
    table = tables(title)[0]
    assert [row["arm"].strip("`") for row in table] == list(arms)
    for shown in table:
        seeds = list(arms[shown["arm"].strip("`")]["by_seed"].values())
        for column, text in shown.items():
            if not column.startswith("AUROC"):
                continue
            detector = column.removeprefix("AUROC ").strip("`")
            areas = [by[detector]["auroc"] for seed in seeds for by in seed["metrics"].values()]
            assert text.split(" [")[0] == f"{100 * sum(areas) / len(areas):.1f}"
            assert ("[" in text) == (len(seeds) >= 3)


def test_links_of_the_page_hold() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT):
        assert (Path(PAGE).parent / target).exists(), target
