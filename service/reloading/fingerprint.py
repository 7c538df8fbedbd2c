"""Has a folder changed?  From names, sizes, times and inodes: no file is read."""

import os
from pathlib import Path

Fingerprint = frozenset[tuple[str, int, int, int]]


def fingerprint(folder: Path) -> Fingerprint:
    """(path, size, mtime in ns, inode) of everything below `folder`, the folder included.

    What cannot be looked at, or goes while it is looked at, is left out.
    """
    found: set[tuple[str, int, int, int]] = set()
    for where, _, files in os.walk(folder):
        for path in (where, *(os.path.join(where, file) for file in files)):
            try:
                stat = os.lstat(path)
            except OSError:
                continue
            size = 0 if path == where else stat.st_size
            found.add((os.path.relpath(path, folder), size, stat.st_mtime_ns, stat.st_ino))
    return frozenset(found)
