"""Whether readers may fetch data sets from the network."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_allowed: ContextVar[bool] = ContextVar("downloads_allowed", default=True)


def downloads_allowed() -> bool:
    """True unless the caller stands in `without_downloads`."""
    return _allowed.get()


@contextmanager
def without_downloads() -> Iterator[None]:
    """While the block runs, data sets that are not on this machine are unavailable."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)
