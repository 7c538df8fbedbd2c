"""Tables inside a page, each between its two marks: what is generated, and where it stands."""

import re
from collections.abc import Mapping, Sequence


def fill(page: str, blocks: Mapping[str, str], name: str) -> str:
    """`page` with every block between `<!-- begin X -->` and `<!-- end X -->`.

    ValueError where a block has no place in the page called `name`, or two.
    """
    for block, content in blocks.items():
        begin, end = f"<!-- begin {block} -->\n", f"<!-- end {block} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"{name} needs the lines {begin.strip()} and {end}, once")
        page = re.sub(
            re.escape(begin) + ".*?" + re.escape(end),
            lambda _, text=begin + content + end: text,
            page,
            flags=re.DOTALL,
        )
    return page


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, one line a row."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
