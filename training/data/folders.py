"""Which files of a folder are inputs."""

from collections.abc import Collection
from pathlib import Path


def is_hidden(path: Path, root: Path) -> bool:
    """Whether it, or a folder between it and `root`, is hidden: `.ipynb_checkpoints`, `._1.jpg`."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def input_files(root: Path, suffixes: Collection[str]) -> list[Path]:
    """Those of these suffixes, in small letters, at any depth, in order; none that is hidden."""
    return sorted(
        file
        for file in root.rglob("*")
        if file.suffix.lower() in suffixes and not is_hidden(file, root)
    )
