"""The pages of the shipped bundles say what the bundles' own reports say."""

from pathlib import Path

import pytest

from benchmarks.bundle_tables import PAGES, filled
from benchmarks.page_blocks import fill


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_report(page: Path) -> None:
    assert filled(page) == page.read_text(), "run python -m benchmarks.bundle_tables"


def test_a_block_needs_its_place_once() -> None:
    page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n"
    assert fill(page, {"x": "new\n"}, "page.md") == page.replace("old", "new")
    for wrong in (page + page, "nothing"):
        with pytest.raises(ValueError, match=r"page\.md needs the lines"):
            fill(wrong, {"x": "new\n"}, "page.md")
