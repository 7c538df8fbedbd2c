"""The sequential alarms of all models on disk, so that a restart forgets no evidence."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from service.drift.sequential import SequentialState


class StateUnreadable(Exception):
    """The message names the file and what is wrong with it."""


class ModelState(BaseModel):
    """`identity`: of the bundle and variant whose calibration the evidence was gathered against."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: str
    detectors: dict[str, SequentialState]


class DriftState(BaseModel):
    """By `<name>/<version>`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: dict[str, ModelState]


def read_state(path: Path) -> Mapping[str, ModelState]:
    """Nothing where there is no file yet.  Raises StateUnreadable."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise StateUnreadable(f"{path}: cannot be read ({exc.strerror})") from exc
    try:
        return DriftState.model_validate_json(text).models
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]
        raise StateUnreadable(f"{path}: {problem['msg']}; delete or restore it") from exc


def write_state(path: Path, models: Mapping[str, ModelState]) -> None:
    """Readers see the old file or the new one.  Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    document = {"models": {name: state.model_dump() for name, state in models.items()}}
    beside.write_text(json.dumps(document), encoding="utf-8")
    beside.replace(path)
