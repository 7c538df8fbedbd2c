"""The table of what fitting costs in docs/your-own-model.md, out of results/fit_cost.json:

python -m benchmarks.fit_tables
"""

import json
from statistics import median
from typing import Any

from benchmarks.fit_cost import IMAGES, RESULT, ROOT
from benchmarks.page_blocks import fill, table

PAGE = ROOT / "docs" / "your-own-model.md"
_NAMES = {"lenet": "LeNet, 28 x 28", "wrn_40_2": "WRN-40-2, 32 x 32"}
_DEAREST = 3


def filled(page: str) -> str:
    """The page with the table of the result."""
    return fill(page, {"fit cost": costs(json.loads(RESULT.read_text()))}, PAGE.name)


def costs(found: dict[str, Any]) -> str:
    """A row a network, then what it was measured on."""
    rows: list[list[str]] = []
    remarks: list[str] = []
    for name, each in found.items():
        rows.append(
            [
                _NAMES[name],
                f"{each['images']:,}",
                f"{median(each['forward_seconds']):.1f}",
                f"{median(each['fit_seconds']):.1f}",
                f"{each['ratio']:.2f}x",
                f"{each['ratio_at_50000']:.2f}x",
                f"{each['default_ratio_at_50000']:.2f}x",
                f"{each['beyond_network_mb']:,} MB",
                _dearest(each["detectors"]),
            ]
        )
        on = each["environment"]
        rounds = "one round" if each["rounds"] == 1 else f"median of {each['rounds']} rounds"
        remarks.append(
            f"{_NAMES[name]}: commit {on['commit']}, {on['machine']['processor']}, "
            f"{each['threads']} thread(s), {rounds}, {len(each['detectors'])} detectors."
        )
    header = ["network", "images", "plain pass, s", "with fitting, s", "to the plain pass"]
    header += ["50,000 images", "those by default", "memory", "dearest at 50,000, s"]
    return table(header, rows) + "\n" + "\n".join(remarks) + "\n"


def _dearest(detectors: dict[str, Any]) -> str:
    seconds = {
        name: each["an_image_ms"] * IMAGES / 1000 + each["fixed_seconds"]
        for name, each in detectors.items()
    }
    first = sorted(seconds, key=lambda name: -seconds[name])[:_DEAREST]
    return ", ".join(f"{name} {seconds[name]:.1f}" for name in first)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
