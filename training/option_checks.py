"""What commands check of their options before they work for an hour."""

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


def check_share(value: float, option: str) -> None:
    """BadParameter, wrong usage of `option`, unless 0 < value < 1."""
    if not 0 < value < 1:
        raise typer.BadParameter(
            f"{value:g} is no share of inputs; give one above 0 and below 1, as 0.95",
            param_hint=option,
        )
