"""What an experiment reads, and whether it is on this machine.  Nothing is opened or fetched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.active.own_studies import OWN_STUDIES
from training.config import RunConfig, SourceConfig, expand_variables
from training.suite.catalogue import configs

State = Literal["here", "download", "missing"]
_ORDER: tuple[State, ...] = ("here", "download", "missing")
# torchvision's data set -> what it leaves below its root
_TORCHVISION = {
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "DTD": "dtd",
    "FashionMNIST": "FashionMNIST/raw",
    "MNIST": "MNIST/raw",
    "Places365": "val_256",
    "SVHN": "test_32x32.mat",
}


@dataclass(frozen=True)
class Need:
    """One set; `source` says the first place it is at, or could come from.  An experiment is
    poorer without a set that is not `required`, and runs."""

    name: str
    source: str
    state: State
    required: bool


def needs(name: str) -> list[Need]:
    """Every set once, required ones first.  Outliers are required where every arm reads some."""
    if name in OWN_STUDIES:
        return [_need(role, sources, True) for role, sources in OWN_STUDIES[name].sets().items()]
    arms = configs(name)
    exposed = [arm for arm in arms.values() if arm.outliers is not None]
    found: dict[tuple[str, str], Need] = {}
    for config in arms.values():
        for need in _of_config(config, every_arm=len(exposed) == len(arms)):
            found.setdefault((need.name, need.source), need)
    return sorted(found.values(), key=lambda need: not need.required)


def _of_config(config: RunConfig, *, every_arm: bool) -> list[Need]:
    data = config.data
    roles = {"train": data.train, "held_out": data.held_out, "test": data.test}
    found = [_need(role, sources, True) for role, sources in roles.items() if sources]
    found += [_need(name, sources, False) for name, sources in data.test_ood.items()]
    if config.outliers is not None:
        found += [
            _need(f"outliers {name}", sources, every_arm)
            for name, sources in config.outliers.sources.items()
        ]
    folder = config.backbone_options.get("path")
    if isinstance(folder, str):
        source = SourceConfig.model_validate({"source": "encoder", "path": folder})
        found.append(_need("encoder", (source,), True))
    return found


def _need(name: str, sources: Sequence[SourceConfig], required: bool) -> Need:
    best = min(sources, key=lambda source: _ORDER.index(_state(source)))
    return Need(name, _words(best), _state(best), required)


def _state(source: SourceConfig) -> State:
    arguments = source.arguments
    if source.source == "torchvision":
        left = _TORCHVISION.get(str(arguments["dataset"]), str(arguments["dataset"]))
        return "here" if (Path(arguments["root"]) / left).exists() else "download"
    if "path" not in arguments:
        return "here"  # made by code
    path = expand_variables(arguments["path"])
    return "here" if path is not None and Path(path).exists() else "missing"


def _words(source: SourceConfig) -> str:
    arguments = source.arguments
    if source.source == "torchvision":
        return f"torchvision {arguments['dataset']}"
    return arguments.get("path", source.source)
