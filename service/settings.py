"""Every setting, read once from `OODSCORE_*` environment variables.  The only reader of them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Provider = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["debug", "info", "warning", "error"]
_MIB = 1024 * 1024


class Settings(BaseSettings):
    """`OODSCORE_MODELS_DIR=models`, `OODSCORE_MAX_BODY_BYTES=32MiB`, ..."""

    model_config = SettingsConfigDict(env_prefix="OODSCORE_", frozen=True)

    # what is served, and where
    models_dir: Path = Path("models")
    default_image_model: str | None = None  # None: the first name in alphabetical order
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
    inference_batch: Annotated[int, Field(ge=1)] = 64  # rows given to the model at once

    # shutting down: unready for `delay`, then accepted requests have `grace` to finish
    shutdown_delay_seconds: Annotated[float, Field(ge=0)] = 2.0
    shutdown_grace_seconds: Annotated[float, Field(ge=0)] = 30.0
    log_level: LogLevel = "info"

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
