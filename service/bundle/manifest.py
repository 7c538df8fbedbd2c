"""The manifest: one closed, frozen, finite description of a bundle.

A field this code does not know, a NaN or an infinity anywhere refuses the bundle.
Scores of every detector: higher = more OOD.
"""

import math
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

SCHEMA_VERSION: Literal[1] = 1

Modality = Literal["image", "text"]
Cost = Literal["logits", "features", "bank", "layers", "gradient", "multi_pass"]
BundleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
BundleVersion = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
DetectorName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
FileName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ratio = Annotated[float, Field(gt=0, lt=1)]


class Closed(BaseModel):
    """Frozen, no unknown fields, no NaN or infinity, no silent coercion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class ImageInput(Closed):
    """How a decoded image becomes the graph's input, uint8 (N, height, width, channels).

    `mean` and `std` (of pixels scaled to [0, 1]) are applied inside the graph; they stand
    here so that a reader and a gradient detector know them.
    """

    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3]
    mean: Annotated[tuple[float, ...], Field(strict=False)]
    std: Annotated[tuple[float, ...], Field(strict=False)]
    # stretch: to the size, whatever the aspect; center_crop: shorter side to the size, cut
    # the middle out; pad: longer side to the size, black bars.
    resize: Literal["stretch", "center_crop", "pad"] = "stretch"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one a channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class DetectorSpec(Closed):
    """One score output of a graph.  Higher = more OOD; OOD is score > threshold."""

    name: DetectorName
    output: Annotated[str, Field(min_length=1)]  # tensor name, float32 (N,)
    graph: FileName
    cost: Cost
    hyperparameters: dict[str, JsonValue]
    threshold: float
    id_acceptance: Ratio
    calibration_size: Annotated[int, Field(ge=19)]
    # where the true acceptance lies with probability 90 %, given this calibration size
    acceptance_interval: Annotated[tuple[float, float], Field(strict=False)]
    reference: str

    @field_validator("hyperparameters")
    @classmethod
    def _finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        _refuse_non_finite(value)
        return value

    @model_validator(mode="after")
    def _interval_ordered(self) -> Self:
        low, high = self.acceptance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"acceptance_interval {low}..{high} is no interval within 0..1")
        return self


class DecisionPolicy(Closed):
    """Which detector decides when the caller names none."""

    primary: DetectorName


class GoldenTolerance(Closed):
    """Largest accepted |served - recorded| <= absolute + relative * |recorded|."""

    absolute: Annotated[float, Field(ge=0, le=0.1)]
    relative: Annotated[float, Field(ge=0, le=0.1)]


class Provenance(Closed):
    """Where the bundle comes from; for people, not for the service's behaviour."""

    created: Annotated[datetime, Field(strict=False)]
    config: dict[str, JsonValue]
    data: dict[str, str]  # role or set name -> fingerprint and count
    libraries: dict[str, str]
    seed: int
    duration_seconds: Annotated[float, Field(ge=0)]

    @field_validator("config")
    @classmethod
    def _finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        _refuse_non_finite(value)
        return value


class Manifest(Closed):
    """manifest.json.  `files` holds the SHA-256 of every other file of the bundle."""

    schema_version: Literal[1]
    name: BundleName
    version: BundleVersion
    modality: Literal["image"]
    description: str
    input: ImageInput
    class_names: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    detectors: Annotated[tuple[DetectorSpec, ...], Field(min_length=1, strict=False)]
    policy: DecisionPolicy
    golden_tolerance: GoldenTolerance
    files: dict[FileName, Digest]
    provenance: Provenance

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        names = [spec.name for spec in self.detectors]
        if len(set(names)) != len(names):
            raise ValueError(f"detector names repeat: {sorted(names)}")
        if self.policy.primary not in names:
            raise ValueError(f"policy.primary {self.policy.primary!r} is none of {sorted(names)}")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class names repeat")
        for spec in self.detectors:
            if spec.graph not in self.files:
                raise ValueError(f"detector {spec.name}: graph {spec.graph} is not in files")
        return self

    def detector(self, name: str) -> DetectorSpec:
        """The entry of that name; KeyError if the bundle has none."""
        for spec in self.detectors:
            if spec.name == name:
                return spec
        raise KeyError(name)


def _refuse_non_finite(value: JsonValue) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinity are not allowed")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_non_finite(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_non_finite(item)
