"""docs/bulk.md says what the committed measurement of the engines says."""

import json

from benchmarks.bulk import ENGINES, RESULT
from benchmarks.bulk_tables import PAGE, filled

MEASURED = json.loads(RESULT.read_text())


def test_the_table_is_that_of_the_result() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run python -m benchmarks.bulk_tables"


def test_all_engines_ran_in_one_run_and_gave_the_same_table() -> None:
    assert tuple(MEASURED["engines"]) == ENGINES
    assert MEASURED["identical_tables"] is True
