"""The studies of this package by name, as the suite takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.active.disambiguation import (
    disambiguation_finished,
    load_disambiguation,
    measure_disambiguation,
)
from training.active.study import (
    active_study_finished,
    load_active_study,
    measure_active_study,
)
from training.config import Sources

Seeds = tuple[int, ...]


@dataclass(frozen=True)
class OwnStudy:
    """A study whose arms are no runs of a config: `sets`, what it reads, all of it required;
    `finished` and `measure` of seeds and the folder of study.json."""

    sets: Callable[[], dict[str, Sources]]
    finished: Callable[[Seeds, Path], bool]
    measure: Callable[[Seeds, Path], dict[str, Any]]


OWN_STUDIES: dict[str, OwnStudy] = {
    "active-learning": OwnStudy(
        lambda: load_active_study().sets(),
        lambda seeds, out: active_study_finished(load_active_study(), seeds, out),
        lambda seeds, out: measure_active_study(load_active_study(), seeds, out),
    ),
    "disambiguation": OwnStudy(
        lambda: load_disambiguation().sets(),
        lambda seeds, out: disambiguation_finished(load_disambiguation(), seeds, out),
        lambda seeds, out: measure_disambiguation(load_disambiguation(), seeds, out),
    ),
}
