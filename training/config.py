"""RunConfig: everything one run needs, frozen, from one TOML file.

A field that is not known here is an error that names it.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from service.bundle import ImageInput


class ConfigError(Exception):
    """The configuration cannot be used; the message names file, field and reason."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SourceConfig(BaseModel):
    """One place a data set can come from; the other fields are the reader's arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")

    source: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


# The first source that is on this machine is used, and the run says which.
Sources = Annotated[tuple[SourceConfig, ...], Field(min_length=1)]


class DataConfig(_Section):
    """train is cut into train-ID, dev-ID and cal-ID before anything is trained."""

    train: Sources
    test: Sources
    dev_count: Annotated[int, Field(ge=19)]  # standardises ensembles; nothing else
    cal_count: Annotated[int, Field(ge=19)]  # thresholds and p-values; nothing else
    test_ood: dict[str, Sources]
    proxy_ood: tuple[str, ...] = ()  # made from dev-ID; for learnt weights only


class OptimiserConfig(_Section):
    name: Literal["adadelta", "sgd"]
    lr: Annotated[float, Field(gt=0)]
    decay_per_epoch: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]


class DetectorConfig(_Section):
    """A detector of the registry and the hyperparameters that differ from its defaults."""

    name: str
    options: dict[str, JsonValue] = {}


class CombinerConfig(_Section):
    """A weighted sum of standardised member scores; the weights see no OOD data unless
    `weights` is "learnt", which names the proxy outliers it used."""

    name: str
    members: Annotated[tuple[str, ...], Field(min_length=2)]
    weights: Literal["equal", "learnt"] = "equal"
    rule: Literal["mean", "max"] = "mean"
    standardisation: Literal["mad", "median"] = "mad"


class RunConfig(_Section):
    name: str
    description: str
    seed: int = 0
    backbone: str
    objective: str = "cross_entropy"
    id_acceptance: Annotated[float, Field(gt=0, lt=1)] = 0.95
    # Test-ID images that go into the bundle as golden inputs, beside noise; 0 where the data
    # may not be redistributed.
    golden_id_count: Annotated[int, Field(ge=0)] = 0
    primary: str = "combined"
    input: ImageInput
    data: DataConfig
    optimiser: OptimiserConfig
    detectors: Annotated[tuple[DetectorConfig, ...], Field(min_length=1)]
    combiners: tuple[CombinerConfig, ...] = ()


def load_config(path: Path) -> RunConfig:
    """Raises ConfigError naming the file and the field."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read ({exc.strerror})") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: is not TOML ({exc})") from exc
    try:
        return RunConfig.model_validate(values)
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
            for error in exc.errors(include_url=False)
        )
        raise ConfigError(f"{path}: {problems}") from exc


def expand_variables(path: str) -> str | None:
    """`${NAME}/rest` with the environment's values; None if a variable is not set."""
    names = re.findall(r"\$\{(\w+)\}", path)
    if any(not os.environ.get(name) for name in names):
        return None
    return os.path.expandvars(path)
