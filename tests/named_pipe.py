"""A named pipe among the inputs: whoever reads it waits until the test has seen to it."""

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 120


def wait_for(condition: Callable[[], Any]) -> Any:
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up, condition
        time.sleep(0.05)
    return found


def being_read(pipe: Path) -> int | None:
    """A writer's end, once somebody has opened the other."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def reader_of(pipe: Path) -> psutil.Process | None:
    """Another process that has it open."""
    for process in psutil.process_iter():
        folder = Path(f"/proc/{process.pid}/fd")
        try:
            links = [os.readlink(link) for link in folder.iterdir()]
        except OSError:
            continue
        if process.pid != os.getpid() and str(pipe) in links:
            return process
    return None


@contextmanager
def feeding(pipe: Path, data: bytes) -> Generator[None]:
    """Whoever reads the pipe gets these bytes."""
    thread = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive()
