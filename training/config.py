"""RunConfig: everything one run needs, frozen, from one TOML file.

A field that is not known here is an error that names it.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from service.bundle import ImageInput, Modality


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


class WordTokenizer(_Section):
    """Words and single punctuation marks, in lower case and Unicode form NFC; the vocabulary is
    made of train-ID: words that occur `min_count` times or more, the commonest ones."""

    kind: Literal["word"]
    largest_vocabulary: Annotated[int, Field(ge=1)] = 10_000  # without padding and unknown
    min_count: Annotated[int, Field(ge=1)] = 2


class SymbolTokenizer(_Section):
    """Single characters, in upper case, white space left out; any other one is unknown."""

    kind: Literal["symbols"]
    symbols: Annotated[str, Field(min_length=1)]  # e.g. "ACGT"


class FileTokenizer(_Section):
    """An existing tokenizer.json, as of a pretrained encoder.

    `largest_vocabulary`: of a WordPiece vocabulary only so many pieces stay; those that train-ID
    is made of and single characters are among them, so that every text stays readable."""

    kind: Literal["file"]
    path: str
    largest_vocabulary: Annotated[int, Field(ge=3)] | None = None
    pad_token: str = "[PAD]"  # noqa: S105
    unknown_token: str = "[UNK]"  # noqa: S105


class TextConfig(_Section):
    """How texts become token ids.  Only the first `max_tokens` of a text are read."""

    max_tokens: Annotated[int, Field(ge=1, le=4096)]
    tokenizer: Annotated[
        WordTokenizer | SymbolTokenizer | FileTokenizer, Field(discriminator="kind")
    ]
    # Of a text that stands in train, or in test, several times: all, or the first.
    duplicates: Literal["drop", "keep"] = "drop"


class DataConfig(_Section):
    """train is cut into train-ID, dev-ID and cal-ID before anything is trained; and into test-ID
    as well where `test_count` stands in place of `test`.  dev-ID and cal-ID are drawn from
    `held_out` instead where it is given: data sets that come with a validation part whose
    inputs were gathered as those of the test were."""

    train: Sources
    held_out: tuple[SourceConfig, ...] = ()
    test: tuple[SourceConfig, ...] = ()
    test_count: Annotated[int, Field(ge=1)] | None = None
    # Standardises ensembles; also fits what train-ID would flatter: temperatures, typical
    # softmaxes, steps of gradient detectors, ranges of int8; proxy outliers are made of it.
    dev_count: Annotated[int, Field(ge=19)]
    cal_count: Annotated[int, Field(ge=19)]  # thresholds and p-values; nothing is fitted on it
    test_ood: dict[str, Sources]
    # The classes in the order of the logits, of a network that was trained elsewhere; the data may
    # hold fewer of them, in any order.  Left out: those of train.
    class_names: tuple[str, ...] = ()
    proxy_ood: tuple[str, ...] = ()  # made from dev-ID; for learnt weights only
    # Of what is left for train-ID, so many inputs; None: all.
    train_count: Annotated[int, Field(ge=1)] | None = None
    # Thin train out, before it is cut, so that class c of K keeps a share of ratio^(-c / (K - 1)):
    # the first class is `imbalance_ratio` times as frequent as the last.  test stays as it is.
    imbalance_ratio: Annotated[float, Field(ge=1)] = 1.0

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        if bool(self.test) == (self.test_count is not None):
            raise ValueError("give either test, where test-ID comes from, or test_count, not both")
        return self


_EVEN = 0.5


class ObjectiveConfig(_Section):
    """The loss: `name` of the registry, its options, and a weight for each of its terms that is
    not to have the default.

    `outlier_fraction`: the share of outliers in what one step passes through the network, beside
    optimiser.batch_size ID inputs, one half where left out; it changes no term's weight."""

    name: str = "cross_entropy"
    options: dict[str, JsonValue] = {}
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    outlier_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None

    def identity(self) -> str | dict[str, Any]:
        """What a checkpoint remembers of it: the name alone where that says everything."""
        given = self.model_dump(exclude_defaults=True)
        return self.name if set(given) <= {"name"} else given

    @property
    def outlier_share(self) -> float:
        """`outlier_fraction`, or its default."""
        return _EVEN if self.outlier_fraction is None else self.outlier_fraction

    def outliers_beside(self, id_count: int) -> int:
        """Outliers in a step with so many ID inputs."""
        share = self.outlier_share
        return max(1, round(id_count * share / (1 - share)))


class OutliersConfig(_Section):
    """Outliers to train on: every set of `sources`, all together, of which `count` are drawn
    evenly; none of them may also stand in test-OOD, test-ID or cal-ID."""

    sources: Annotated[dict[str, Sources], Field(min_length=1)]
    count: Annotated[int, Field(ge=1)] | None = None


class Stage(_Section):
    """From epoch `epoch` on (counted from 0), train on images of `side` x `side` pixels."""

    epoch: Annotated[int, Field(ge=0)]
    side: Annotated[int, Field(ge=8)]


class Restart(_Section):
    """Before epoch `epoch` (counted from 0) the cosine begins again, at `lr`."""

    epoch: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0)]


class OptimiserConfig(_Section):
    """`schedule` steps: lr x decay_per_epoch after each epoch; cosine: from lr to 1e-6 over all
    steps, or over each cycle that `restarts` make of them (SGDR, arXiv 1608.03983): a finished
    run can be continued.  `stages`: smaller images first make early epochs cheaper, for networks
    that take any size; none: always the input's own size.  `warmup`: the share of all steps
    over which lr rises to the schedule's from 0.  `clip_norm`: gradients of all weights together
    that are longer are shortened to it.  `like_lengths`: a batch takes texts of about the same
    length, which saves computing on padding.  `classes_per_batch`: a batch takes the same number
    of inputs of each of so many classes, which are drawn without replacement.
    `mixed_precision`: the network computes in bfloat16 where that is safe; on a GPU only."""

    name: Literal["adadelta", "adam", "adamw", "sgd"]
    lr: Annotated[float, Field(gt=0)]
    schedule: Literal["steps", "cosine"] = "steps"
    decay_per_epoch: Annotated[float, Field(gt=0, le=1)] = 1.0
    augmentation: tuple[Literal["crop", "flip"], ...] = ()
    stages: tuple[Stage, ...] = ()
    restarts: tuple[Restart, ...] = ()
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    like_lengths: bool = False
    classes_per_batch: Annotated[int, Field(ge=2)] | None = None
    mixed_precision: bool = False
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _classes_fit(self) -> Self:
        classes = self.classes_per_batch
        if classes is None:
            return self
        if self.like_lengths:
            raise ValueError("classes_per_batch does not go with like_lengths; leave one out")
        if self.batch_size % classes:
            raise ValueError(
                f"batch_size is {self.batch_size}; it must be a multiple of classes_per_batch = "
                f"{classes}"
            )
        return self

    @model_validator(mode="after")
    def _restarts_fit(self) -> Self:
        starts = [restart.epoch for restart in self.restarts]
        if starts and self.schedule != "cosine":
            raise ValueError("restarts belong to the cosine schedule; leave them out with steps")
        if starts != sorted(set(starts)) or any(start >= self.epochs for start in starts):
            raise ValueError(
                f"restarts at epochs {starts}: expected rising numbers below epochs = {self.epochs}"
            )
        return self


class DetectorConfig(_Section):
    """A detector of the registry and the hyperparameters that differ from its defaults."""

    name: str
    options: dict[str, JsonValue] = {}


class CombinerConfig(_Section):
    """One score of several.  The weights see no OOD data unless `weights` is "learnt", which
    names the proxy outliers it used.

    rule: mean or largest (max) of standardised scores (`standardisation`: mad where left out);
    or a combination of p-values: fisher, stouffer, harmonic, which standardise by themselves
    and need dev_count >= 100."""

    name: str
    members: Annotated[tuple[str, ...], Field(min_length=2)]
    weights: Literal["equal", "learnt"] = "equal"
    rule: Literal["mean", "max", "fisher", "stouffer", "harmonic"] = "mean"
    standardisation: Literal["mad", "median"] | None = None

    @model_validator(mode="after")
    def _rule_takes_the_rest(self) -> Self:
        if self.weights == "learnt" and self.rule in ("max", "harmonic"):
            raise ValueError(
                f"{self.name}: the rule {self.rule} takes no weights; choose mean, fisher or "
                "stouffer, or leave weights out"
            )
        if self.standardisation is not None and self.rule not in ("mean", "max"):
            raise ValueError(
                f"{self.name}: the rule {self.rule} reads p-values; leave standardisation out"
            )
        if len(set(self.members)) < len(self.members):
            raise ValueError(f"{self.name}: a member is named twice in {list(self.members)}")
        return self


class RunConfig(_Section):
    name: str
    description: str
    seed: int = 0
    backbone: str
    backbone_options: dict[str, JsonValue] = {}
    objective: ObjectiveConfig = ObjectiveConfig()
    outliers: OutliersConfig | None = None
    # Weights to start from, in place of random ones: checkpoint.safetensors of a bundle, or
    # checkpoint.pt of a run of ours; ${NAME} stands for an environment variable.
    start_from: str | None = None
    # The network was trained elsewhere and stays as it is: nothing is trained here.
    trained: bool = False
    id_acceptance: Annotated[float, Field(gt=0, lt=1)] = 0.95
    # Test-ID images that go into the bundle as golden inputs, beside noise; 0 where the data
    # may not be redistributed.
    golden_id_count: Annotated[int, Field(ge=0)] = 0
    primary: str = "combined"
    modality: Modality = "image"
    input: ImageInput | None = None  # of images
    text: TextConfig | None = None
    # Texts that go into the bundle as golden inputs, beside some of ours: never of others' data.
    golden_texts: tuple[str, ...] = ()
    data: DataConfig
    optimiser: OptimiserConfig | None = None  # of every network that is trained here
    detectors: Annotated[tuple[DetectorConfig, ...], Field(min_length=1)]
    # Networks trained alike from other seeds on the same data, for deep_ensemble; this one counts.
    members: Annotated[int, Field(ge=1)] = 1
    # The processor that the backward nodes of gradient graphs are written for.
    gradient_lowering: Literal["cpu", "cuda"] = "cpu"
    # Detectors that cost several passes are calibrated and reported on so many images a set.
    several_passes_limit: Annotated[int, Field(ge=19)] | None = None
    combiners: tuple[CombinerConfig, ...] = ()
    # Linear layers and embeddings are rounded to eight bits after training, the head is not: files
    # a quarter as large; graphs compute in float32 as before.
    weights_int8: bool = False
    # Thresholds and p-values of each predicted class by itself, where it has calibration scores
    # enough; otherwise of all together.
    thresholds_by_class: bool = False
    # Add forward-int8.onnx, calibrated on its own scores, and measure its price.
    int8: bool = False

    @property
    def form(self) -> ImageInput | TextConfig:
        """How raw data become inputs."""
        form = self.text or self.input
        assert form is not None  # noqa: S101  (the validator saw to it)
        return form

    @field_validator("objective", mode="before")
    @classmethod
    def _objective_by_name(cls, value: Any) -> Any:
        """`objective = "cross_entropy"` is short for a section with a name alone."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_modality(self) -> Self:
        if (self.input is None) != (self.modality == "text"):
            raise ValueError("[input] belongs to modality image, and every image config has one")
        if (self.text is None) != (self.modality == "image"):
            raise ValueError('[text] belongs to modality = "text", and every text config has one')
        if self.int8 and self.thresholds_by_class:
            raise ValueError("int8 does not go with thresholds_by_class; leave one out")
        recipe = self.optimiser
        pixels = () if recipe is None else (*recipe.augmentation, *recipe.stages)
        if self.modality == "text" and (pixels or self.golden_id_count or self.int8):
            raise ValueError(
                "augmentation, stages, golden_id_count and int8 are for images; leave them out"
            )
        like_lengths = recipe is not None and recipe.like_lengths
        if self.modality == "image" and (self.golden_texts or like_lengths):
            raise ValueError("golden_texts and like_lengths are for texts; leave them out")
        return self

    @model_validator(mode="after")
    def _trained_here_or_elsewhere(self) -> Self:
        if self.trained == (self.optimiser is not None):
            raise ValueError(
                "give [optimiser], by which the network is trained, or trained = true, not both"
            )
        unused = {"members": self.members > 1, "outliers": self.outliers is not None}
        unused |= {"start_from": self.start_from is not None}
        if self.trained and any(unused.values()):
            names = [name for name, given in unused.items() if given]
            raise ValueError(f"trained = true: nothing is trained, so leave {names} out")
        return self

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        for what, names in (
            ("detectors", [entry.name for entry in self.detectors]),
            ("combiners", [entry.name for entry in self.combiners]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} {twice} stand twice: their scores would share a name")
        return self


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
