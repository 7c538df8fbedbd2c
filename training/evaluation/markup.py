"""Pieces of the report's page: style, tables, numbers.  Everything shown is escaped here."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--page:#fff;--line:#d0d7de;
--stripe:#f6f8fa;--best:#d7ebdc;--warn:#8a3b00;--warnpage:#fff1e0}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b3;--page:#0f1419;
--line:#323a44;--stripe:#171d24;--best:#17452a;--warn:#ffb77a;--warnpage:#3a2410}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;margin:.3rem 0}h2{font-size:1.25rem;margin:2.4rem 0 .5rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p,li{max-width:75ch}
.scroll{overflow-x:auto;margin:.6rem 0 1.4rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:50%}
caption{text-align:left;color:var(--soft);padding:.3rem 0}
th,td{padding:.32rem .7rem;border-bottom:1px solid var(--line);text-align:right;
vertical-align:top}
thead th{border-bottom:2px solid var(--line);vertical-align:bottom;font-weight:600}
th:first-child,.text,.prose{text-align:left}td.prose{min-width:16rem;max-width:34rem}
tbody tr{background:var(--page)}
tbody th{font-weight:500;white-space:nowrap;position:sticky;left:0;background:inherit}
tbody tr:nth-child(even){background:var(--stripe)}
td small{display:block;color:var(--soft);font-size:.78em;white-space:nowrap}
td.prose small{white-space:normal}
td.best{background:var(--best);font-weight:700}td.best small{font-weight:400}
td.warn{background:var(--warnpage);
color:var(--warn);font-weight:600}
dl{display:flex;flex-wrap:wrap;gap:.3rem 1.6rem;margin:.4rem 0}dt{color:var(--soft);font-size:.8em}
dd{margin:0;font-variant-numeric:tabular-nums}
figure{margin:1.2rem 0}img{max-width:100%;height:auto;background:#fff;border-radius:6px;
border:1px solid var(--line)}figcaption{color:var(--soft);max-width:75ch}
pre{overflow-x:auto;background:var(--stripe);padding:.8rem;border-radius:6px}
@media print{main{max-width:none}}
"""


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller line below, and how it is marked."""

    value: str
    small: str = ""
    best: bool = False
    warn: bool = False
    head: bool = False
    text: bool = False  # left-aligned
    prose: bool = False  # left-aligned and wrapped


def per_cent(share: float) -> str:
    """0.98765 -> '98.77'."""
    return f"{100 * share:.2f}"


def signed_points(difference: float) -> str:
    """0.012 -> '+1.20', with a real minus sign."""
    return f"{100 * difference:+.2f}".replace("-", "−")


def best_of(values: Mapping[str, float], more: bool = True) -> set[str]:
    """The names whose shown value is the best; nobody when there is no competition."""
    if len(values) < 2:
        return set()
    shown = {name: per_cent(value) for name, value in values.items()}
    winner = per_cent((max if more else min)(values.values()))
    return {name for name, value in shown.items() if value == winner}


def table(caption: str, heads: Sequence[str], body: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls sideways on its own when the screen is narrow."""
    left = [cell.text or cell.prose for cell in body[0]] if body else [False] * len(heads)
    top = "".join(
        f'<th scope="col"{" class=text" if text else ""}>{escape(head)}</th>'
        for head, text in zip(heads, left, strict=True)
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in body)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n"
    )


def section(title: str, content: str) -> str:
    """A section whose heading can be linked to."""
    anchor = title.lower().replace(" ", "-")
    return f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{content}</section>\n'


def labelled_list(facts: Mapping[str, str]) -> str:
    """Short facts side by side."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{items}</dl>"


def bullets(lines: Iterable[str]) -> str:
    """One remark a line."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def picture(path: Path, caption: str) -> str:
    """A PNG file inside the page, its caption read out to people who do not see it."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def page(title: str, content: str) -> str:
    """The whole document: no script, no outside asset."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{content}</main></body></html>\n"
    )


def _cell(cell: Cell) -> str:
    small = f"<small>{escape(cell.small)}</small>" if cell.small else ""
    if cell.head:
        return f'<th scope="row">{escape(cell.value)}{small}</th>'
    marks = [name for name in ("best", "warn", "text", "prose") if getattr(cell, name)]
    css = f' class="{" ".join(marks)}"' if marks else ""
    value = f"<strong>{escape(cell.value)}</strong>" if cell.best else escape(cell.value)
    return f"<td{css}>{value}{small}</td>"
