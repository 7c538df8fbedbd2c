"""The manifest: one closed, frozen, finite description of a bundle.

A field this code does not know, a NaN or an infinity anywhere refuses the bundle.
Scores of every detector: higher = more OOD.
"""

import math
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

SCHEMA_VERSION: Literal[1] = 1
FORWARD = "forward.onnx"  # logits and every score that one pass over the network gives

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
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
BatchSize = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}$")]
# what no single pass can give: such a detector has a graph of its own and runs only when named
ON_DEMAND: frozenset[Cost] = frozenset({"gradient", "multi_pass"})


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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one input: height, width, channels."""
        return self.height, self.width, self.channels

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values, one a channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class TextInput(Closed):
    """How a text becomes the graph's input, int64 (N, L), 1 <= L <= max_tokens; see `tokenize`.

    Padding ids change no score: the graph masks them.
    """

    tokenizer: Literal["tokenizer.json"]
    max_tokens: Annotated[int, Field(ge=1, le=4096)]  # special tokens counted in
    vocabulary_size: Annotated[int, Field(ge=3)]
    pad_id: Annotated[int, Field(ge=0)]  # reserved: no text's token
    unknown_id: Annotated[int, Field(ge=0)]  # reserved: of what the vocabulary does not know

    @model_validator(mode="after")
    def _ids_are_reserved(self) -> Self:
        if self.pad_id == self.unknown_id:
            raise ValueError(f"pad_id and unknown_id are both {self.pad_id}")
        if max(self.pad_id, self.unknown_id) >= self.vocabulary_size:
            raise ValueError(f"pad_id and unknown_id lie in 0..{self.vocabulary_size - 1}")
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

    @model_validator(mode="after")
    def _graph_fits_the_cost(self) -> Self:
        if self.on_demand != (self.graph != FORWARD):
            raise ValueError(
                f"detector {self.name}: cost {self.cost} and graph {self.graph} do not fit; "
                f"{' and '.join(sorted(ON_DEMAND))} detectors have a graph of their own, all "
                f"others stand in {FORWARD}"
            )
        return self

    @property
    def on_demand(self) -> bool:
        """Runs only in requests that name it."""
        return self.cost in ON_DEMAND


class DecisionPolicy(Closed):
    """Which detector decides when the caller names none; one of forward.onnx."""

    primary: DetectorName


class GoldenTolerance(Closed):
    """Largest accepted |served - recorded| <= absolute + relative * |recorded|."""

    absolute: Annotated[float, Field(ge=0, le=0.1)]
    relative: Annotated[float, Field(ge=0, le=0.1)]


class VariantPrice(Closed):
    """What the variant costs and gains, both graphs measured on the same data and machine."""

    accuracy: Share  # of the variant
    accuracy_fp32: Share
    # OOD set -> detector -> AUROC of forward.onnx, then of the variant; empty without OOD sets
    auroc: dict[str, dict[DetectorName, Annotated[tuple[Share, Share], Field(strict=False)]]]
    # batch size -> seconds of forward.onnx / seconds of the variant: above 1 is faster
    speed_ratio: Annotated[dict[BatchSize, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    measured_on: Annotated[str, Field(min_length=1)]  # processor, threads, onnxruntime


class VariantSpec(Closed):
    """Another form of forward.onnx with the same outputs, served only where a setting says so.

    Thresholds, calibration scores and golden outputs are its own; acceptance, calibration size
    and all else of a detector are those of its entry in `detectors`.
    """

    name: Literal["int8"]
    graph: Literal["forward-int8.onnx"]
    calibration: Literal["calibration-int8.npz"]
    golden: Literal["golden-int8.npz"]
    # None: the bundle's.  Integer kernels of another processor may round a whole step apart.
    golden_tolerance: GoldenTolerance | None = None
    thresholds: dict[DetectorName, float]
    price: VariantPrice


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
    modality: Modality
    description: str
    input: ImageInput | TextInput
    class_names: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    detectors: Annotated[tuple[DetectorSpec, ...], Field(min_length=1, strict=False)]
    policy: DecisionPolicy
    golden_tolerance: GoldenTolerance
    # of graphs with gradients inside; None: as above.  Where a gradient is all but zero its sign
    # is rounding's, so that on another processor single pixels step the other way.
    gradient_tolerance: GoldenTolerance | None = None
    files: dict[FileName, Digest]
    provenance: Provenance
    variants: Annotated[tuple[VariantSpec, ...], Field(strict=False)] = ()
    # how often each class, in the order of class_names, was predicted for the calibration inputs;
    # None: not recorded, so a shift of the labels cannot be told
    label_counts: Annotated[tuple[Count, ...], Field(strict=False)] | None = None
    # thresholds and p-values are those of the class an input is predicted as; None: of all classes
    # together.  A detector's `threshold` stays that of all.
    calibration_classes: Literal["calibration-classes.npz"] | None = None

    @model_validator(mode="after")
    def _classes_of_calibration_hold(self) -> Self:
        if self.calibration_classes is None:
            return self
        if self.calibration_classes not in self.files:
            raise ValueError(f"{self.calibration_classes} is not in files")
        if self.variants:
            raise ValueError("a bundle with thresholds by class has no variants")
        return self

    @model_validator(mode="after")
    def _one_label_count_a_class(self) -> Self:
        counts = self.label_counts
        if counts is not None and (len(counts) != len(self.class_names) or sum(counts) == 0):
            raise ValueError(
                f"label_counts needs {len(self.class_names)} counts, one a class, not all 0"
            )
        return self

    @model_validator(mode="after")
    def _input_fits_the_modality(self) -> Self:
        if isinstance(self.input, TextInput) != (self.modality == "text"):
            raise ValueError(f"modality {self.modality} with the input of the other one")
        if isinstance(self.input, TextInput) and self.input.tokenizer not in self.files:
            raise ValueError(f"{self.input.tokenizer} is not in files")
        return self

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        names = [spec.name for spec in self.detectors]
        if len(set(names)) != len(names):
            raise ValueError(f"detector names repeat: {sorted(names)}")
        if self.policy.primary not in names:
            raise ValueError(f"policy.primary {self.policy.primary!r} is none of {sorted(names)}")
        if self.detector(self.policy.primary).on_demand:
            raise ValueError(
                f"policy.primary {self.policy.primary!r} does not stand in {FORWARD}; the primary "
                "detector answers every request"
            )
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class names repeat")
        for spec in self.detectors:
            if spec.graph not in self.files:
                raise ValueError(f"detector {spec.name}: graph {spec.graph} is not in files")
        return self

    @model_validator(mode="after")
    def _variants_are_complete(self) -> Self:
        if len({variant.name for variant in self.variants}) != len(self.variants):
            raise ValueError("variants repeat")
        wanted = {spec.name for spec in self.detectors if not spec.on_demand}
        for variant in self.variants:
            for file in (variant.graph, variant.calibration, variant.golden):
                if file not in self.files:
                    raise ValueError(f"variant {variant.name}: {file} is not in files")
            priced = {f"price.auroc of {set_}": v for set_, v in variant.price.auroc.items()}
            for what, entries in {"thresholds": variant.thresholds, **priced}.items():
                if set(entries) != wanted:
                    raise ValueError(
                        f"variant {variant.name}: {what} names {sorted(entries)}, "
                        f"{FORWARD} has {sorted(wanted)}"
                    )
        return self

    def tolerance_of(self, graph: str) -> GoldenTolerance:
        """How far the golden outputs of one of the bundle's graphs may be missed."""
        if self.gradient_tolerance is None:
            return self.golden_tolerance
        gradient = any(d.graph == graph and d.cost == "gradient" for d in self.detectors)
        return self.gradient_tolerance if gradient else self.golden_tolerance

    def forward_detectors(self) -> list[DetectorSpec]:
        """The entries whose scores forward.onnx, or a variant of it, gives."""
        return [spec for spec in self.detectors if not spec.on_demand]

    def with_thresholds_of(self, variant: VariantSpec) -> Self:
        """The manifest as it reads while that variant stands for forward.onnx."""
        detectors = tuple(
            spec
            if spec.on_demand
            else spec.model_copy(update={"threshold": variant.thresholds[spec.name]})
            for spec in self.detectors
        )
        return self.model_copy(update={"detectors": detectors})

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
