"""The tables of docs/<bundle>.md, out of the bundles' reports:  python -m benchmarks.bundle_tables

One page a shipped bundle that has one; `results/<bundle>-small/report.json` and `-frozen`, where
there are some, are the same task by other networks.  Scores fitted on ID data alone come first,
those whose weights were learnt on proxy outliers second; no score of either table has seen a test
set.
"""

from pathlib import Path

from benchmarks.page_blocks import fill, table
from training.evaluation.records import Report, Row
from training.evaluation.report import read_report

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    page
    for folder in sorted((ROOT / "models").iterdir())
    if (page := ROOT / "docs" / f"{folder.name}.md").exists()
)
RESULTS = ROOT / "benchmarks" / "results"
_LEARNT = "_learnt"
_OTHERS = {"small": "small network", "frozen": "frozen encoder"}

# OpenOOD v1.5 (arXiv:2306.09301), CIFAR-10, ResNet-18, cross-entropy, post-hoc, AUROC in per cent:
# mean over the near sets (CIFAR-100, Tiny-ImageNet), over the far ones (MNIST, SVHN, Textures,
# Places365).
OPENOOD: dict[str, dict[str, tuple[float, float]]] = {
    "cifar10": {
        "nci": (88.86, 91.27),
        "fdbd": (90.42, 93.16),
        "scale": (82.55, 86.39),
        "react": (87.11, 90.42),
        "knn": (90.64, 92.96),
        "gen": (88.20, 91.35),
        "max_logit": (87.52, 91.10),
        "rmds": (89.80, 92.20),
        "energy": (87.58, 91.21),
        "vim": (88.68, 93.48),
        "msp": (88.03, 90.73),
        "odin": (82.87, 87.96),
        "she": (81.54, 85.32),
        "gradnorm": (54.90, 57.55),
        "mahalanobis": (84.20, 89.72),
    }
}


def filled(page: Path) -> str:
    """The page's text with the tables of today."""
    versions = list((ROOT / "models" / page.stem).glob("[0-9]*/report.json"))
    newest = max(versions, key=lambda path: int(path.parent.name))
    found = blocks(page.stem, read_report(newest))
    for kind, title in _OTHERS.items():
        other = RESULTS / f"{page.stem}-{kind}" / "report.json"
        if other.exists():
            own = blocks(page.stem, read_report(other))
            found |= {f"{title}: {mark}": content for mark, content in own.items()}
    return fill(page.read_text(), found, page.name)


def blocks(name: str, report: Report) -> dict[str, str]:
    """Name of the mark -> its table."""
    detectors = [record.name for record in report.detectors]
    alone = [detector for detector in detectors if not detector.endswith(_LEARNT)]
    learnt = [detector for detector in detectors if detector.endswith(_LEARNT)]
    found = {"bundle": _bundle(report), "ID data only": _scores(name, report, alone)}
    if learnt:
        found["proxy outliers"] = _scores(name, report, learnt)
    return found


def _bundle(report: Report) -> str:
    accuracy = "unknown" if report.test_accuracy is None else f"{100 * report.test_accuracy:.2f} %"
    sizes = ", ".join(f"{set_name} {count:,}" for set_name, count in report.counts.items())
    return (
        f"Bundle `{report.bundle}`: accuracy {accuracy} on test-ID, seed "
        f"{', '.join(map(str, report.seeds))}. Inputs: {sizes}.\n"
    )


def _scores(name: str, report: Report, detectors: list[str]) -> str:
    published = OPENOOD.get(name, {})
    ood, controls = report.sets("ood"), report.sets("control")
    ranked = sorted(detectors, key=lambda detector: -(report.macro_auroc(detector) or 0.0))
    rows: list[list[str]] = []
    for detector in ranked:
        cells = [f"`{detector}`"]
        for row in (report.row(ood_set.name, detector) for ood_set in ood):
            cells += ["", "", ""] if row is None else _cells(row)
        for row in (report.row(control.name, detector) for control in controls):
            cells.append("" if row is None else _percent(row.metrics.auroc))
        if published:
            near_far = published.get(detector)
            cells.append("" if near_far is None else "{:.1f} / {:.1f}".format(*near_far))
        rows.append(cells)
    header = ["score"]
    for ood_set in ood:
        header += [f"{ood_set.name} AUROC [95 %]", "FPR", "rejected"]
    header += [f"{control.name} AUROC" for control in controls]
    return table([*header, "OpenOOD near / far"] if published else header, rows)


def _cells(row: Row) -> list[str]:
    """AUROC with its interval, FPR at 95 % of ID accepted, share that the bundle's own threshold
    rejects."""
    low, high = row.auroc_interval
    return [
        f"{_percent(row.metrics.auroc)} [{_percent(low)}, {_percent(high)}]",
        _percent(row.metrics.fpr95_id_side),
        _percent(row.metrics.ood_rejection),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page))
