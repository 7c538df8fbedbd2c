"""Packages that only one engine needs."""

import importlib
from typing import Any

from service.bulk.errors import EngineMissing


def package(name: str, extra: str) -> Any:
    """Raises EngineMissing."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise EngineMissing(
            f"--engine {extra} needs the package {name}: pip install 'oodscore[{extra}]'"
        ) from exc
