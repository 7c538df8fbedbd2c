"""What a figure was measured on."""

import os
import subprocess
from datetime import UTC, datetime

from training.export import library_versions
from training.reporting import machine


def environment() -> dict[str, object]:
    """Commit, processor, cores, libraries and date, for the JSON of a benchmark."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    commit = described.stdout.strip() if described.returncode == 0 else "not a git checkout"
    return {
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "libraries": library_versions(),
        "load_average": round(os.getloadavg()[0], 2),
    }
