"""The key file, looked at again while the service runs: a key is taken out without a restart."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from service.api_keys import ApiKey, check_distinct, read_key_file

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0


class KeyWatch:
    """Costs one look at the file's time and size every two seconds of traffic.

    A file that is gone, broken or empty changes nothing: it is logged, and the last keys stay.
    To take out the last key of a file, stop the service.
    """

    def __init__(
        self,
        path: Path,
        others: tuple[ApiKey, ...],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`others`: the keys of the settings, which no file takes away."""
        self._path, self._others, self._clock = path, others, clock
        self._next_look = clock()
        self._seen: tuple[int, int, int] | None = None

    def news(self) -> tuple[ApiKey, ...] | None:
        """All keys when the file has changed, None when it has not or cannot be used."""
        now = self._clock()
        if now < self._next_look:
            return None
        self._next_look = now + _PAUSE_SECONDS
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            keys = check_distinct((*self._others, *read_key_file(self._path)))
        except ValueError as exc:
            logger.error("the keys of %s stay as they were: %s", self._path, exc)
            return None
        logger.info("%d API keys", len(keys))
        return keys

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = os.stat(self._path)  # of what a link points to
        except OSError:
            return (0, 0, 0)
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)
