"""A progress bar on the terminal, plain lines in a log file or CI."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_LINE_SECONDS = 15.0


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing how far; `what` says what is being done.

    On a terminal a bar with the time left; elsewhere one line every 15 seconds, so that
    logs stay short and short work stays silent.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        from rich.console import Console

        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield from bar.track(items, total=total, description=what)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LINE_SECONDS:
            last = now
            say(f"{what}: {done}/{total if total is not None else '?'}")


def say(line: str) -> None:
    """One line for the person who waits, on stderr; stdout stays for results."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
