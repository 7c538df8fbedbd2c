"""study.json: what a study found, arm by arm and seed by seed."""

import json
from pathlib import Path
from typing import Any

STUDY_JSON = "study.json"


def read_study(folder: Path) -> dict[str, Any]:
    """What was measured so far, no arms where nothing was.

    ValueError naming a file that cannot be gone on with.
    """
    path = folder / STUDY_JSON
    if not path.exists():
        return {"arms": {}}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found | {"arms": dict(found["arms"])}
    except (ValueError, KeyError, TypeError) as exc:
        raise ValueError(
            f"{path} is not the result of a study ({type(exc).__name__}: {exc}); take it away to "
            "measure from nothing"
        ) from exc


def write_study(folder: Path, found: dict[str, Any]) -> None:
    """An interrupt leaves the last whole file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STUDY_JSON
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1) + "\n")
    temporary.replace(path)
