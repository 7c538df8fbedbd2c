"""Every setting, read once from `OODSCORE_*` environment variables.  The only reader of them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.bundle.manifest import BundleName, Modality

Provider = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["debug", "info", "warning", "error"]
_MIB = 1024 * 1024


class Settings(BaseSettings):
    """`OODSCORE_MODELS_DIR=models`, `OODSCORE_MAX_BODY_BYTES=32MiB`, ..."""

    model_config = SettingsConfigDict(env_prefix="OODSCORE_", frozen=True)

    # what is served, and where
    models_dir: Path = Path("models")
    # answer where a request names no model; None: the first name in alphabetical order
    default_image_model: str | None = None
    default_text_model: str | None = None
    # models whose int8 variant is served in place of forward.onnx: names, comma separated
    int8_models: Annotated[frozenset[BundleName], NoDecode] = frozenset()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  # 0: a free one
    provider: Provider = "auto"
    # threads inside one inference; None: 1 for small networks, all usable cores for others
    threads: Annotated[int, Field(ge=1)] | None = None

    # limits of one request
    max_body_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(32 * _MIB)
    max_image_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(20 * _MIB)
    max_pixels: Annotated[int, Field(ge=1)] = 16_000_000  # of one image
    max_inputs: Annotated[int, Field(ge=1)] = 256
    max_npy_inputs: Annotated[int, Field(ge=1)] = 4096
    max_text_characters: Annotated[int, Field(ge=1)] = 100_000
    request_timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0

    # limits of all requests together
    max_queued_inputs: Annotated[int, Field(ge=1)] = 8192  # waiting or being scored
    max_open_requests: Annotated[int, Field(ge=1)] = 256  # whose bodies are held in memory
    # of images being decoded and resized at once, 20 bytes each at worst
    max_decoded_pixels: Annotated[int, Field(ge=1)] = 24_000_000
    # given to the model at once: inputs; inputs where it computes gradients or several passes;
    # tokens of texts, padding counted in (one longer text goes alone)
    inference_batch: Annotated[int, Field(ge=1)] = 64
    on_demand_batch: Annotated[int, Field(ge=1)] = 16
    inference_tokens: Annotated[int, Field(ge=1)] = 4096

    # watching for drift: the last so many answers of each detector, none older than so many
    # seconds; ID inputs between two false alarms, at least; where a restart finds the evidence
    drift_tracking: bool = True
    drift_window: Annotated[int, Field(ge=200, le=100_000)] = 2000
    drift_window_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600.0
    drift_run_length: Annotated[float, Field(ge=1000, allow_inf_nan=False)] = 30_000.0
    drift_state_file: Path | None = None

    # shutting down: unready for `delay`, then accepted requests have `grace` to finish
    shutdown_delay_seconds: Annotated[float, Field(ge=0)] = 2.0
    shutdown_grace_seconds: Annotated[float, Field(ge=0)] = 30.0
    log_level: LogLevel = "info"

    @property
    def default_models(self) -> dict[Modality, str]:
        """Those that are set, by modality."""
        named: dict[Modality, str | None] = {
            "image": self.default_image_model,
            "text": self.default_text_model,
        }
        return {modality: name for modality, name in named.items() if name is not None}

    @field_validator("int8_models", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return frozenset(name.strip() for name in value.split(",")) if value.strip() else ()

    @model_validator(mode="after")
    def _largest_request_fits_the_queue(self) -> Self:
        largest = max(self.max_inputs, self.max_npy_inputs)
        if self.max_queued_inputs < largest:
            raise ValueError(
                f"max_queued_inputs is {self.max_queued_inputs}, but one request may hold "
                f"{largest} inputs (max_inputs, max_npy_inputs)"
            )
        return self

    @model_validator(mode="after")
    def _largest_image_fits_the_budget(self) -> Self:
        if self.max_decoded_pixels < self.max_pixels:
            raise ValueError(
                f"max_decoded_pixels is {self.max_decoded_pixels}, but one image may have "
                f"{self.max_pixels} pixels (max_pixels)"
            )
        return self
