"""study.json of a study whose arms are no runs of a config: measured arm by arm, seed by seed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from training.export import library_versions
from training.progress import say
from training.reporting import machine
from training.study_file import read_study, write_study

Config = dict[str, Any]


class NamedArm(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def what(self) -> str: ...


A = TypeVar("A", bound=NamedArm)


def measure_arms(
    title: str,
    arms: Sequence[A],
    seeds: Sequence[int],
    out: Path,
    config_of: Callable[[A], Config],
    measure: Callable[[A, int], Mapping[str, Any]],
) -> dict[str, Any]:
    """What study.json holds; it is written anew after every arm of every seed, all arms of a seed
    one after another.  What was measured by the same config before is not measured again."""
    if not seeds:
        raise ValueError("at least one seed is needed")
    found = read_study(out)
    for seed in seeds:
        for arm in arms:
            entry = found["arms"].setdefault(arm.name, {"by_seed": {}})
            entry["what"] = arm.what
            config = config_of(arm)
            if entry["by_seed"].get(str(seed), {}).get("config") == config:
                continue
            say(f"{arm.name}, seed {seed}")
            entry["by_seed"][str(seed)] = {**measure(arm, seed), "config": config}
            found |= {"title": title, "libraries": library_versions(), "machine": machine()}
            write_study(out, found)
    return found


def arms_finished(
    arms: Sequence[A], seeds: Sequence[int], out: Path, config_of: Callable[[A], Config]
) -> bool:
    """Whether `out` holds every arm, measured by today's config with these seeds."""
    found = read_study(out)["arms"]
    return all(
        found.get(arm.name, {"by_seed": {}})["by_seed"].get(str(seed), {}).get("config")
        == config_of(arm)
        for arm in arms
        for seed in seeds
    )
