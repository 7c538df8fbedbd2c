"""The tables and the figure of docs/drift.md, out of results/drift_detection.json:

python -m benchmarks.drift_tables
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.page_blocks import fill, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "drift.md"
FIGURE = ROOT / "docs" / "drift-delays.png"
RESULT = ROOT / "benchmarks" / "results" / "drift_detection.json"
ALARMS = ("cusum", "martingale")


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends."""
    result: dict[str, Any] = json.loads(RESULT.read_text())
    return {
        "delays": _delays(result["delays"]),
        "false alarms": _false_alarms(result["false_alarms"]),
        "psi": _psi(result["psi"]),
    }


def filled(page: str) -> str:
    """The page with the tables of the results."""
    return fill(page, blocks(), PAGE.name)


def _delays(found: dict[str, Any]) -> str:
    shares = list(next(iter(next(iter(found.values())).values())))
    rows = [
        [f"`{detector}`", ood, alarm, *(_delay(by_share[share][alarm]) for share in shares)]
        for detector, sets in found.items()
        for ood, by_share in sets.items()
        for alarm in ALARMS
    ]
    return table(["score", "OOD", "alarm", *(f"{100 * float(s):g} %" for s in shares)], rows)


def _delay(cell: dict[str, Any]) -> str:
    median, late = ("never" if v is None else f"{v:,.0f}" for v in (cell["median"], cell["q90"]))
    return f"{median} ({late})"


def _false_alarms(found: dict[str, Any]) -> str:
    spans = list(next(iter(next(iter(found.values())).values())))
    rows = [
        [f"`{detector}`", way, *(f"{100 * shares[span]:.0f} %" for span in spans)]
        for detector, ways in found.items()
        for way, shares in ways.items()
    ]
    header = [f"within {int(span.removeprefix('within_')):,} inputs" for span in spans]
    return table(["score", "alarm, calibration", *header], rows)


def _psi(rows: list[dict[str, float]]) -> str:
    return table(
        ["window", "PSI > 0.1", "PSI > its level"],
        [
            [
                f"{row['window']:,}",
                f"{100 * row['above_0.1']:.1f} %",
                f"{100 * row['beyond']:.1f} %",
            ]
            for row in rows
        ],
    )


def draw() -> None:
    """Median delay of the CUSUM against the share of OOD, a line a test set and score."""
    mpl.use("Agg")
    found: dict[str, Any] = json.loads(RESULT.read_text())["delays"]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for style, (detector, sets) in zip(("-", "--", ":"), found.items(), strict=True):
        for colour, (ood, by_share) in enumerate(sets.items()):
            points = [(100 * float(s), cell["cusum"]["median"]) for s, cell in by_share.items()]
            known = [(share, delay) for share, delay in points if delay is not None]
            axes.plot(
                [share for share, _ in known],
                [delay for _, delay in known],
                style,
                marker="o",
                markersize=3,
                color=f"C{colour}",
                label=f"{detector}, {ood}",
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="OOD inputs, per cent of the traffic",
        ylabel="inputs until the alarm (median)",
        title="CUSUM: how soon a drift is found",
    )
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small", ncols=3)
    figure.savefig(FIGURE, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    draw()
