"""The table of docs/bulk.md, out of results/bulk.json:

python -m benchmarks.bulk_tables
"""

import json
from typing import Any

from benchmarks.bulk import RESULT, ROOT
from benchmarks.page_blocks import fill, table

PAGE = ROOT / "docs" / "bulk.md"
_NAMES = {"process": "processes of this machine", "dask": "Dask", "ray": "Ray"}


def filled(page: str) -> str:
    """The page with the table of the result."""
    return fill(page, {"engines": engines(json.loads(RESULT.read_text()))}, PAGE.name)


def engines(found: dict[str, Any]) -> str:
    """What was measured in a sentence, then a row an engine."""
    on, machine = found["environment"], found["environment"]["machine"]
    rows = [
        [
            _NAMES[name],
            f"{each['fastest']:.1f} ({', '.join(f'{s:.1f}' for s in each['seconds'])})",
            f"{found['inputs'] / each['fastest']:,.0f}",
            f"{each['to_processes']:.2f}x",
        ]
        for name, each in found["engines"].items()
    ]
    alike = "the same to the bit" if found["identical_tables"] else "NOT the same"
    return (
        f"{found['inputs']:,} small PNGs through `{found['model']}` with all its detectors, "
        f"{found['workers']} workers on this machine, partitions of {found['partition_rows']}, "
        f"start and end of the workers included, in turns in one run; the tables were {alike}.\n"
        f"Commit {on['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"load {on['load_average']} at its end.\n\n"
        + table(["engine", "seconds: fastest (all)", "inputs a second", "to processes"], rows)
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
