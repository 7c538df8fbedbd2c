"""Where a command writes is looked at before it works for an hour."""

import os
from pathlib import Path

import typer


def check_writable(folder: Path, option: str) -> None:
    """BadParameter, wrong usage of `option`, where `folder` cannot be written or made.  Its nearest
    ancestor that exists decides; nothing is made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        why = "is no folder" if not there.is_dir() else "cannot be written to"
        raise typer.BadParameter(f"{folder}: {there} {why}; name another", param_hint=option)
