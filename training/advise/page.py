"""An advice written out: advice.json, advice.html, advice.png; and as a table on the terminal."""

import json
from dataclasses import asdict
from html import escape
from pathlib import Path

from pydantic import TypeAdapter
from rich.table import Table

from training.advise.picture import advice_picture
from training.advise.records import VERDICTS, WORTH, Advice, Opinion, Share
from training.evaluation.canvas import save_png
from training.evaluation.markup import (
    Cell,
    bullets,
    labelled_list,
    page,
    per_cent,
    picture,
    section,
    table,
)

ADVICE_JSON, ADVICE_HTML, ADVICE_PNG = "advice.json", "advice.html", "advice.png"
_CAPTION = (
    "Above: what each detector catches at the wanted acceptance, with its price; what another"
    " acceptance costs the one that should decide. Below: how alike detectors rank held-out ID; and"
    " what share of production each flags, or, without production, whether the threshold holds on"
    " held-out ID."
)
_READING = (
    "Caught is measured on what nothing was chosen on. Outliers are cut in halves, where there are"
    " 40 or more: one chooses, the other is reported. Proxies are made of held-out ID by code; they"
    " show which detectors work at all. Intervals are 95 %: Wilson's of shares, Student's of means"
    " over several kinds of proxies, DeLong's of AUROC. They hold for one detector each."
)


def write_advice(folder: Path, advice: Advice) -> list[Path]:
    """Into `folder` (made if missing); ValueError on NaN before anything is written."""
    text = json.dumps(asdict(advice), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / ADVICE_JSON, folder / ADVICE_HTML, folder / ADVICE_PNG]
    paths[0].write_text(text, encoding="utf-8")
    save_png(advice_picture(advice), paths[2])
    paths[1].write_text(_page(advice, paths[2]), encoding="utf-8")
    return paths


def read_advice(path: Path) -> Advice:
    """advice.json -> Advice.  Raises pydantic.ValidationError on anything else."""
    return TypeAdapter(Advice).validate_json(path.read_bytes())


def overview_table(advice: Advice) -> Table:
    """For the terminal: what is worth its price, and at most as many others."""
    worth = [one for one in advice.opinions if one.verdict in WORTH]
    others = [one for one in advice.opinions if one.verdict not in WORTH]
    others.sort(key=lambda one: -one.detection.value)
    grid = Table(title=f"{advice.bundle}, {100 * advice.acceptance:g} % of ID accepted")
    heads = ["detector", "price", "caught (%)"]
    heads += ["production flagged (%)"] if advice.production else []
    for i, head in enumerate([*heads, ""]):
        grid.add_column(head, justify="left" if i in (0, len(heads)) else "right", no_wrap=True)
    for one in [*worth, *others[: max(3, len(worth))]]:
        cells = [one.name, f"{one.cost.ratio:.2f}×", _narrow(one.detection)]
        cells += [_narrow(one.seen.flagged)] if one.seen else []
        grid.add_row(*cells, VERDICTS[one.verdict])
    return grid


def _page(advice: Advice, png: Path) -> str:
    facts = {
        "Bundle": advice.bundle,
        "Should decide": advice.decides,
        "Wanted acceptance": f"{100 * advice.acceptance:g} %",
        "Held-out ID": advice.id_origin,
    } | {name: f"{count:,}" for name, count in advice.counts.items()}
    parts = [
        f"<header><h1>{escape(advice.title)}</h1>{labelled_list(facts)}"
        "<p>Higher score = more OOD.</p></header>",
        section("Advice", bullets(advice.words)),
        section("In one picture", picture(png, _CAPTION)),
        section("Detectors", f"<p>{_READING}</p>" + _detectors(advice)),
        section("Thresholds", _levels(advice)),
        section("Every kind of evidence", _evidence(advice)),
        section("Remarks", bullets(advice.remarks)) if advice.remarks else "",
        section("Machine", labelled_list(advice.machine)),
    ]
    return page(advice.title, "".join(parts))


def _detectors(advice: Advice) -> str:
    body = [
        [
            Cell(one.name, head=True, best=one.verdict in WORTH),
            Cell(VERDICTS[one.verdict], small=_alike(one), prose=True),
            Cell(
                f"{one.cost.ratio:.3f}",
                small=f"{one.cost.low:.3f}–{one.cost.high:.3f}; {one.cost.microseconds:,.0f} µs",
            ),
            Cell(f"{one.threshold:.6g}"),
            _share(one.detection),
            _share(one.only_here),
            _share(one.only_id),
            *([_share(one.seen.flagged)] if one.seen else []),
            *([Cell(per_cent(one.seen.at_least))] if one.seen else []),
        ]
        for one in advice.opinions
    ]
    heads = ["Detector", "Verdict", "Price", "Threshold", "Caught"]
    heads += ["Caught by it alone", "ID flagged by it alone"]
    if advice.production is not None:
        heads += ["Production flagged", "OOD share at least"]
    caption = "Price: times the classifier alone, batch 1. By it alone: not by the deciding one (%)"
    return table(caption, heads, body)


def _levels(advice: Advice) -> str:
    body = [
        [
            Cell(f"{100 * level.acceptance:g}", head=True),
            Cell(f"{level.threshold:.6g}"),
            Cell("–".join(map(per_cent, level.promised))),
            _share(level.accepted),
            Cell(
                "–".join(map(per_cent, level.allowed)),
                warn=not level.allowed[0] <= level.accepted.value <= level.allowed[1],
            ),
            _share(level.detection),
        ]
        for level in advice.levels
    ]
    heads = ["Acceptance", "Threshold", "True acceptance (90 %)", "Held-out ID accepted"]
    heads += ["Chance allows (99 %)", "Caught"]
    return table(f"Thresholds of {advice.decides} (%)", heads, body)


def _evidence(advice: Advice) -> str:
    first = advice.opinions[0].caught
    body = [
        [
            Cell(one.name, head=True),
            *(
                Cell(
                    per_cent(caught.detection.value),
                    small=f"AUROC {per_cent(caught.auroc)} "
                    f"({per_cent(caught.auroc_interval[0])}–{per_cent(caught.auroc_interval[1])})",
                )
                for caught in one.caught
            ),
        ]
        for one in advice.opinions
    ]
    heads = [
        caught.set if caught.role == "outliers" else f"proxy: {caught.set}" for caught in first
    ]
    return table(
        "Caught at the threshold (%), and AUROC with DeLong's interval", ["", *heads], body
    )


def _share(share: Share) -> Cell:
    return Cell(per_cent(share.value), small=f"{per_cent(share.low)}–{per_cent(share.high)}")


def _narrow(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.0f}–{100 * share.high:.0f})"


def _alike(one: Opinion) -> str:
    return "" if one.alike is None else f"{one.alike}, correlation {one.correlation:.2f} or more"
