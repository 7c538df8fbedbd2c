"""Wire types: what /score and /models read and answer."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Decision = Literal["ID", "OOD"]
_LONGEST_PLACE = 128  # names of fields are the caller's, too


class _Closed(BaseModel):
    model_config = ConfigDict(
        # what stands in a request stays out of errors, and so out of the log
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class InputItem(_Closed):
    """Exactly one of `image` (base64 of PNG, JPEG, WebP, BMP or GIF bytes) and `text`."""

    image: str | None = None
    text: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "InputItem":
        if (self.image is None) == (self.text is None):
            raise ValueError("give either image or text")
        return self


class ScoreBody(_Closed):
    """application/json body of POST /score."""

    inputs: Annotated[list[InputItem], FailFast()]
    model: str | None = None
    version: str | None = None
    detectors: list[str] | None = None
    id_acceptance: float | None = None


class ScoreParameters(_Closed):
    """Query parameters of POST /score, for every kind of body."""

    model: Annotated[
        str | None, Field(description="Name of the model; the default one if left out.")
    ] = None
    version: Annotated[
        str | None, Field(description="Version of the model; the highest if left out.")
    ] = None
    detectors: Annotated[
        str | None,
        Field(
            description="Comma separated detectors to report; the first one decides. "
            "Left out: all that need no extra pass, and the model's primary one decides."
        ),
    ] = None
    id_acceptance: Annotated[
        float | None,
        Field(
            description="Share of in-distribution inputs to accept, between 0 and 1; "
            "thresholds are taken from the calibration scores."
        ),
    ] = None


class DetectorResult(_Closed):
    """Higher score = more OOD; OOD is score > threshold."""

    score: float
    threshold: float
    p_value: Probability
    decision: Decision


class ErrorItem(_Closed):
    code: str
    detail: str


class ScoreResult(_Closed):
    """The answer for one input."""

    index: int
    decision: Decision
    label: str
    label_index: int
    confidence: Probability
    score: float
    p_value: Probability
    detector: str
    detectors: dict[str, DetectorResult]
    # of texts only: true where the text was longer than the model reads
    truncated: bool | None = None


class FailedResult(_Closed):
    """One input of several that could not be scored."""

    index: int
    error: ErrorItem


class ModelId(_Closed):
    name: str
    version: str


class ScoreResponse(_Closed):
    """`results` keeps the order of the inputs."""

    model: ModelId
    results: list[ScoreResult | FailedResult]


class Problem(BaseModel):
    """RFC 9457 problem document; branch on `code`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str


class DetectorInfo(_Closed):
    name: str
    cost: str
    threshold: float
    id_acceptance: Probability
    calibration_size: int
    acceptance_interval: tuple[float, float]
    # true: runs only in requests that name it, from a graph opened when the first one does
    on_demand: bool
    state: Literal["ready", "not_opened", "failed"]
    reference: str


class ImageInfo(_Closed):
    """What an image is brought to."""

    height: int
    width: int
    channels: int


class TextInfo(_Closed):
    """How much of a text is read, in tokens of a vocabulary of that size."""

    max_tokens: int
    vocabulary_size: int


class ModelInfo(_Closed):
    """One served version of a model."""

    name: str
    version: str
    versions: list[str]
    default: bool
    modality: str
    description: str
    classes: list[str]
    input: ImageInfo | TextInfo
    primary_detector: str
    detectors: list[DetectorInfo]
    provider: str
    variant: Literal["fp32", "int8"]
    digest: str
    created: datetime
    report: str | None


class VersionInfo(_Closed):
    """One version in the models folder, served or not; `error`: what keeps its files from it."""

    name: str
    version: str
    state: Literal["serving", "loading", "settling", "refused", "not_loaded", "draining"]
    error: str | None
    since: datetime


class ModelList(_Closed):
    """`problem`: why the models folder cannot be read, if so; what was loaded is served on."""

    models: list[ModelInfo]
    versions: list[VersionInfo] = []
    problem: str | None = None


class CalibrationHistogram(_Closed):
    """Calibration scores of one detector: `counts` in equally wide bins from `low` to `high`,
    which leave out half a percent at either end, and how many lie `below` and `above`."""

    low: float
    high: float
    counts: list[int]
    below: int
    above: int


class CalibrationHistograms(_Closed):
    """Of one served version of a model, by detector."""

    name: str
    version: str
    variant: Literal["fp32", "int8"]
    detectors: dict[str, CalibrationHistogram]


class Status(_Closed):
    status: str


def describe_problems(problems: Iterable[Mapping[str, Any]]) -> str:
    """pydantic's error list -> one line that names each field; values are left out."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))[:_LONGEST_PLACE] or 'body'}: {problem['msg']}"
        for problem in problems
    )
