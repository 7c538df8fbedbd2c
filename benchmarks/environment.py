"""What a figure was measured on."""

import os
from datetime import UTC, datetime

from training.export import library_versions
from training.reporting import machine


def environment() -> dict[str, object]:
    """Commit, processor, cores, libraries and date, for the JSON of a benchmark."""
    found = machine()
    return {
        "commit": found.pop("commit"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": found,
        "libraries": library_versions(),
        "load_average": round(os.getloadavg()[0], 2),
    }
