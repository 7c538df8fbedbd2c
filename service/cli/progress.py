"""A progress bar on stderr, for work that takes longer than two seconds."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

_QUIET_SECONDS = 2.0
_Item = TypeVar("_Item")


def track(items: Sequence[_Item], what: str) -> Iterator[_Item]:
    """The items, one by one; the bar appears after two seconds and leaves no trace."""
    started = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task(what, total=len(items), visible=False)
        for item in items:
            yield item
            late = time.monotonic() - started > _QUIET_SECONDS
            progress.update(task, advance=1, visible=late, refresh=late)
