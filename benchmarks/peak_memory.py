"""The most memory this process has held."""

import re
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Resident, since the program began.

    Linux counts in ru_maxrss what the process was before it became this program: as much as the one
    that started it.
    """
    if _STATUS.exists():
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
