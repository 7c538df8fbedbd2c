"""The price list for people: a table on the terminal and a page, both from the record."""

from collections.abc import Iterable, Sequence

from rich.table import Table

from benchmarks.prices.goals import GOALS, NETWORK, Verdict
from benchmarks.prices.graphs import ALL_SCORES, BANKLESS_SCORES, WITHOUT_BANKS, Kind
from benchmarks.prices.records import BatchPrice, Price, PriceList

_MEGABYTE = 1e6
_VERDICTS: dict[Verdict, str] = {
    "met": "met",
    "missed": "**missed**",
    "open": "open: the interval holds the limit",
}
_TITLES = {
    "all_logits": "all of cost `logits`",
    "all_features": "all of cost `features`",
    "all_layers": "all of cost `layers`",
    WITHOUT_BANKS: "**all detectors without banks**",
    BANKLESS_SCORES: "all detectors without banks, and their ensembles",
    ALL_SCORES: "**the whole forward graph: banks and ensembles, too**",
    "plain_again": "the classifier once more (control)",
}
SECTIONS: tuple[tuple[str, tuple[Kind, ...]], ...] = (
    ("Together, in the forward graph", ("control", "together")),
    ("Each alone, in the forward graph", ("detector",)),
    ("A graph of its own, run on demand", ("own_graph",)),
)

_METHOD = """\
A ratio is the processor time of the classifier's graph with the detector over that of the graph
without, as the service runs them, on one thread. The two are timed in turn, the order changing, and
each pair gives one ratio. The figure is the median of a graph's pairs, the bracket a 95 % interval
of that median which supposes no distribution; pairs are taken until it is narrow or the time is up,
which makes it a little optimistic. `µs` is what the detector adds to one image at the smallest
batch; memory what opening and running the graph at the largest batch adds to the resident memory
of a process of its own; bundle what graph and weights add to the files, weights that two graphs
read counted once. What detectors share is computed and stored once, so prices do not add up.
The control shows what is noise: it is the plain classifier under another name.
"""


def rich_table(listed: PriceList) -> Table:
    table = Table(title=f"Price relative to the plain classifier: {listed.workload}")
    table.add_column("graph")
    for batch in listed.batches:
        table.add_column(f"batch {batch}", justify="right")
    for column in ("µs an image", "memory MB", "bundle MB"):
        table.add_column(column, justify="right")
    for _, kinds in SECTIONS:
        for price in of_kinds(listed, kinds):
            table.add_row(title(price), *_cells(listed, price))
        table.add_section()
    return table


def page(lists: Sequence[PriceList]) -> str:
    """docs/price-list.md, whole."""
    lines = [
        "# Price list",
        "",
        "What every detector costs on top of the plain classifier, measured in one run by",
        "`python -m benchmarks.price_list`, which writes this page, too.",
        "",
        _METHOD,
    ]
    for listed in lists:
        lines += _section(listed)
    return "\n".join(lines).rstrip() + "\n"


def _section(listed: PriceList) -> list[str]:
    plain = listed.plain
    machine = listed.environment["machine"]
    libraries = listed.environment["libraries"]
    times = ", ".join(f"{plain.microseconds_an_input[b]:,.0f} µs at {b}" for b in listed.batches)
    lines = [
        f"## {listed.workload}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {listed.threads} thread; onnxruntime "
        f"{_version(libraries, 'onnxruntime')}, torch {_version(libraries, 'torch')}; commit "
        f"{listed.environment['commit']}, {str(listed.environment['date'])[:10]}, load "
        f"{listed.environment['load_average']}.",
        "",
        f"The plain classifier takes {times} an image (batch), "
        f"{_megabytes(plain.memory_bytes)} MB of memory and {_megabytes(plain.bundle_bytes)} MB of "
        "files.",
        "",
        f"![Price relative to the plain classifier]({listed.picture})",
        "",
    ]
    if listed.backbone == NETWORK:
        lines += _goals(listed)
    for heading, kinds in SECTIONS:
        prices = list(of_kinds(listed, kinds))
        if prices:
            lines += [f"### {heading}", "", *_markdown(listed, prices), ""]
    if listed.left_out:
        lines += ["Not priced:", ""]
        lines += [f"- `{name}` {why}" for name, why in sorted(listed.left_out.items())]
        lines.append("")
    return lines


def _goals(listed: PriceList) -> list[str]:
    lines = ["### Goals", "", "| goal | batch | at most | measured | |", "|---|---|---|---|---|"]
    for goal in GOALS:
        price = listed.of(goal.graph)
        if price is None or goal.batch not in price.batches:
            lines.append(f"| {goal.text} | {goal.batch} | {goal.limit:.2f} | not measured | |")
            continue
        batch = price.batches[goal.batch]
        verdict = _VERDICTS[goal.verdict(batch.interval)]
        lines.append(
            f"| {goal.text} | {goal.batch} | {goal.limit:.2f} | {_ratio(batch)} | {verdict} |"
        )
    return [*lines, ""]


def _markdown(listed: PriceList, prices: Iterable[Price]) -> list[str]:
    batches = [f"batch {batch}" for batch in listed.batches]
    heads = ["", "cost", "scores", *batches, "µs", "memory MB", "bundle MB"]
    lines = [_row(heads), "|---|---|" + "---:|" * (len(heads) - 2)]
    for price in prices:
        name = _TITLES.get(price.name, f"`{price.name}`")
        cost = price.cost or ""
        lines.append(_row([name, cost, str(price.scores), *_cells(listed, price)]))
    return lines


def _cells(listed: PriceList, price: Price) -> list[str]:
    smallest = price.batches[listed.batches[0]]
    return [
        *(_ratio(price.batches[batch]) for batch in listed.batches),
        f"{smallest.added_microseconds_an_input:,.0f}",
        _megabytes(price.memory_bytes),
        _megabytes(price.bundle_bytes),
    ]


def _ratio(price: BatchPrice) -> str:
    """As many digits as the figure bears: 1.034, 3.42, 17.1."""
    digits = 3 if price.ratio < 2 else 2 if price.ratio < 10 else 1
    return f"{price.ratio:.{digits}f} [{price.low:.{digits}f}, {price.high:.{digits}f}]"


def _megabytes(count: int) -> str:
    return f"{count / _MEGABYTE:.2f}"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def title(price: Price) -> str:
    """Of a graph, as plain text."""
    return _TITLES.get(price.name, price.name).replace("*", "").replace("`", "")


def of_kinds(listed: PriceList, kinds: Sequence[Kind]) -> Iterable[Price]:
    """The prices of graphs of these kinds, in order."""
    return (price for price in listed.prices if price.kind in kinds)


def _version(libraries: dict[str, str], prefix: str) -> str:
    """onnxruntime goes by two package names."""
    return next((v for name, v in libraries.items() if name.startswith(prefix)), "unknown")
