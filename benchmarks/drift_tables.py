"""The tables and figures of docs/drift.md, out of results/drift_detection.json and
results/drift_cost.json:

python -m benchmarks.drift_tables
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.page_blocks import fill, table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "drift.md"
FIGURE = ROOT / "docs" / "drift-delays.png"
KINDS_FIGURE = ROOT / "docs" / "drift-kinds.png"
RESULT = ROOT / "benchmarks" / "results" / "drift_detection.json"
COST = ROOT / "benchmarks" / "results" / "drift_cost.json"
ALARMS = ("shiryaev_roberts", "martingale")
REQUESTS = {"png": "1 image, PNG", "npy_64": "64 images, npy"}
KINDS = {
    "none": "none",
    "ood": "OOD share",
    "ramp": "OOD, 0 to 50 % over",
    "corruption": "corruption, severity",
    "labels": "one class",
}


def blocks() -> dict[str, str]:
    """Name of the mark -> what belongs between its two ends."""
    result: dict[str, Any] = json.loads(RESULT.read_text())
    return {
        "delays": _delays(result["delays"]),
        "false alarms": _false_alarms(result["false_alarms"]),
        "simulated": _simulated(result["simulated"]),
        "cost": _cost(json.loads(COST.read_text())),
        "psi": _psi(result["psi"]),
        "uniformity": _uniformity(result["uniformity"]),
        "statistics": _kinds(result["statistics"]["drifts"], _statistic),
        "alerts": _kinds(result["alerts"]["drifts"], _alert),
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
        [f"`{detector}`", way, *(f"{100 * shares[span]:.1f} %" for span in spans)]
        for detector, ways in found.items()
        for way, shares in ways.items()
    ]
    header = [f"within {int(span.removeprefix('within_')):,} inputs" for span in spans]
    return table(["score", "alarm, calibration", *header], rows)


def _simulated(found: dict[str, dict[str, float]]) -> str:
    names = list(next(iter(found.values())))
    rows = [
        [f"{int(size):,}", *(f"{100 * shares[name]:.1f} %" for name in names)]
        for size, shares in found.items()
    ]
    return table(["calibration scores", *names], rows)


def _cost(found: dict[str, Any]) -> str:
    def ratio(values: dict[str, float]) -> str:
        return f"{values['median']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"

    alone = (
        f"The tracker by itself takes {found['tracker_microseconds_an_input']:.1f} microseconds of "
        f"processor time an input with {found['detectors']} scores.\n\n"
    )
    return alone + table(
        ["a request", "ms of processor, on", "off", "processor, on / off", "throughput, on / off"],
        [
            [
                what,
                f"{found[name]['on']['processor_milliseconds_a_request']:.3f}",
                f"{found[name]['off']['processor_milliseconds_a_request']:.3f}",
                ratio(found[name]["processor_ratio"]),
                ratio(found[name]["throughput_ratio"]),
            ]
            for name, what in REQUESTS.items()
        ],
    )


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


def _uniformity(found: dict[str, dict[str, float]]) -> str:
    return table(
        ["score", "p-value of their uniformity", "below 0.05", "below 0.001"],
        [
            [
                f"`{detector}`",
                f"{row['ks_p_value']:.2g}",
                f"{100 * row['below_0.05']:.1f} %",
                f"{100 * row['beyond']:.1f} %",
            ]
            for detector, row in found.items()
        ],
    )


def _kinds(drifts: list[dict[str, Any]], cell: Callable[[dict[str, Any], bool], str]) -> str:
    """A row a drift, a column a statistic or alert; `cell` hears whether anything drifts."""
    names = list(drifts[0]["found"])
    rows = [
        [
            " ".join(word for word in (KINDS[drift["kind"]], drift["of"], drift["size"]) if word),
            *(cell(drift["found"][name], drift["kind"] != "none") for name in names),
        ]
        for drift in drifts
    ]
    return table(["drift", *(name.removeprefix("Oodscore") for name in names)], rows)


def _statistic(cell: dict[str, Any], drifts: bool) -> str:
    """Median (90 % quantile) of the inputs; without drift the share of streams."""
    return _delay(cell) if drifts else f"{100 * cell['found']:.0f} % of streams"


def _alert(cell: dict[str, Any], drifts: bool) -> str:
    if not drifts:
        return f"{100 * max(cell['fired'], cell['fired_before']):.0f} % of streams"
    if cell["median"] is None:
        return "-" if cell["fired"] == 0 else f"- ({100 * cell['fired']:.0f} %)"
    return f"{cell['median']:.0f}"


def draw_kinds() -> None:
    """Median delay of every statistic by the size of the drift, one part a kind."""
    mpl.use("Agg")
    drifts = json.loads(RESULT.read_text())["statistics"]["drifts"]
    shown = (("ood", "omniglot"), ("ramp", "omniglot"), ("corruption", "gaussian_noise"))
    labels = next(drift["of"] for drift in drifts if drift["kind"] == "labels")
    figure, parts = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for axes, (kind, of) in zip(parts.flat, (*shown, ("labels", labels)), strict=True):
        some = [drift for drift in drifts if (drift["kind"], drift["of"]) == (kind, of)]
        for colour, name in enumerate(some[0]["found"]):
            delays = [drift["found"][name]["median"] for drift in some]
            places = [place for place, delay in enumerate(delays) if delay is not None]
            axes.plot(
                places,
                [delays[place] for place in places],
                "o-",
                markersize=3,
                color=f"C{colour}",
                label=name,
            )
        axes.set_xticks(range(len(some)), [drift["size"] for drift in some], fontsize="small")
        axes.set(yscale="log", title=f"{KINDS[kind]}: {of}", ylabel="inputs until found (median)")
        axes.grid(visible=True, which="both", alpha=0.3)
    parts[0, 0].legend(fontsize="x-small", ncols=2)
    figure.savefig(KINDS_FIGURE, dpi=100, metadata={"Software": None})
    plt.close(figure)


def draw() -> None:
    """Median delay of the first alarm against the share of OOD, a line a test set and score."""
    mpl.use("Agg")
    found: dict[str, Any] = json.loads(RESULT.read_text())["delays"]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for style, (detector, sets) in zip(("-", "--", ":"), found.items(), strict=True):
        for colour, (ood, by_share) in enumerate(sets.items()):
            points = [(100 * float(s), cell[ALARMS[0]]["median"]) for s, cell in by_share.items()]
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
        title="Shiryaev-Roberts: how soon a drift is found",
    )
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small", ncols=3)
    figure.savefig(FIGURE, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    draw()
    draw_kinds()
