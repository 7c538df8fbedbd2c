"""docs/results.md, whole, out of committed results:  python -m benchmarks.results_page

Every experiment of `oodscore-train benchmark --list` has its section as soon as it has a result:
benchmarks/results/<name>/report.json or study.json.  A result of another kind needs a function
that turns it into Markdown and a line in OTHERS.  What a person has to say is in results_page.toml.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import active_tables, disambiguation_tables
from benchmarks.page_blocks import table
from benchmarks.results_blocks import network_block, study_block
from training.active.own_studies import OWN_STUDIES
from training.studies import STUDIES
from training.suite.catalogue import EXPERIMENTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"

WORDS = tomllib.loads((ROOT / "benchmarks" / "results_page.toml").read_text(encoding="utf-8"))
NOTES: dict[str, str] = WORDS["notes"]


@dataclass(frozen=True)
class Other:
    """A result that is no experiment of the suite: `command` makes `file`, `make` its section."""

    title: str
    file: str  # below benchmarks/results
    command: str
    make: Callable[[Mapping[str, Any]], str]


def _link(page: str, what: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda _: f"{what}: [{page}]({page}).\n"


# of studies whose arms are no runs
SUMMARIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "active-learning": active_tables.summary,
    "disambiguation": disambiguation_tables.summary,
}
# In this order; those without a file are left out.
OTHERS: tuple[Other, ...] = (
    Other(
        "What a detector costs",
        "price_list-cifar10.json",
        "python -m benchmarks.price_list",
        _link("price-list.md", "Time, memory and bytes of every detector beside the classifier"),
    ),
    Other(
        "The service beside others",
        "service.json",
        "python -m benchmarks.service.compare",
        _link("serving.md", "CPU time a request, throughput, latency, of six servers in one run"),
    ),
    Other(
        "How `combined` was chosen",
        "combined_study.json",
        "python -m benchmarks.combined_study",
        _link("combined.md", "39 ways of combining scores, on proxy outliers left out in turn"),
    ),
    Other(
        "Drift",
        "drift_detection.json",
        "python -m benchmarks.drift_detection",
        _link("drift.md", "False alarms, inputs and minutes until each alarm"),
    ),
    Other(
        "Bulk scoring",
        "bulk.json",
        "python -m benchmarks.bulk",
        _link("bulk.md", "Processes, Dask and Ray over the same images"),
    ),
)


def page() -> str:
    """The whole page of today's results."""
    parts = [WORDS["introduction"], _missing()]
    for name in EXPERIMENTS:
        studied = name in {*STUDIES, *OWN_STUDIES}
        path = RESULTS / name / ("study.json" if studied else "report.json")
        if path.exists():
            make = study_block if name in STUDIES else network_block
            if name in OWN_STUDIES:
                make = own_block
            command = f"oodscore-train benchmark {name}"
            parts.append(_section(f"`{name}`", command, path, make(path), NOTES.get(name)))
    for folder in sorted((ROOT / "models").iterdir()):
        newest = max(folder.glob("[0-9]*"), key=lambda version: int(version.name))
        path = newest / "report.json"
        note = NOTES.get(f"models/{folder.name}")
        title = f"Bundle `{folder.name}/{newest.name}`"
        parts.append(_section(title, f"models/{folder.name}", path, network_block(path), note))
    for other in OTHERS:
        path = RESULTS / other.file
        if path.exists():
            content = other.make(json.loads(path.read_text(encoding="utf-8")))
            parts.append(_section(other.title, other.command, path, content, None))
    return "\n".join(parts)


def own_block(path: Path) -> str:
    """Of the study.json of a study whose arms are no runs."""
    return SUMMARIES[path.parent.name](json.loads(path.read_text(encoding="utf-8")))


def _section(title: str, command: str, path: Path, content: str, note: str | None) -> str:
    source = path.relative_to(ROOT)
    made = f"`{command}` → " if " " in command else ""
    head = f"## {title}\n{made}[{source}](../{source})\n"
    return "\n".join([head, *([note + "\n"] if note else []), content])


def _missing() -> str:
    """Experiments without a result, and why."""
    rows: list[Sequence[str]] = []
    for name, experiment in EXPERIMENTS.items():
        if not any((RESULTS / name / file).exists() for file in ("study.json", "report.json")):
            where = "a GPU" if experiment.gpu else "two processor cores"
            minutes = f"about {experiment.minutes} min a seed on {where}"
            rows.append((f"`{name}`", experiment.repeats, minutes))
    if not rows:
        return ""
    return "## Not measured here yet\n\n" + table(("experiment", "repeats", "takes"), rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
