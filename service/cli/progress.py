"""A progress bar on stderr, for work that takes longer than two seconds."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_QUIET_SECONDS = 2.0
_Item = TypeVar("_Item")


def _one(_: object) -> int:
    return 1


def track(
    items: Sequence[_Item], what: str, *, weigh: Callable[[_Item], int] = _one
) -> Iterator[_Item]:
    """The items, one by one; the bar appears after two seconds and leaves no trace.

    `weigh`: how many an item counts for.
    """
    return track_all(items, what, sum(map(weigh, items)), weigh=weigh)


def track_all(
    items: Iterable[_Item],
    what: str,
    total: int,
    *,
    already: int = 0,
    weigh: Callable[[_Item], int] = _one,
) -> Iterator[_Item]:
    """The same of items nobody has counted; `already`: done before the first of them."""
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    ) as progress:
        task = progress.add_task(what, total=total, completed=already, visible=False)
        for item in items:
            yield item
            late = time.monotonic() - started > _QUIET_SECONDS
            progress.update(task, advance=weigh(item), visible=late, refresh=late)
