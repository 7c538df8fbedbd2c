"""Every setting, read once from `OODSCORE_*` environment variables.  The only reader of them."""

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    ImportString,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.api_keys import ApiKey, check_distinct, parse_entries, read_key_file
from service.bundle.manifest import BundleName, BundleVersion, Modality

Provider = Literal["auto", "cpu", "cuda"]
LogLevel = Literal["debug", "info", "warning", "error"]
_MIB = 1024 * 1024
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


_PREFIX = "OODSCORE_"
_OF_OTHERS = frozenset({"api_key", "data"})  # the client's key, the data of the tests


def _all(value: object) -> object:
    return None if value == "all" else value


def _off(value: object) -> object:
    return None if value == "off" else value


class Settings(BaseSettings):
    """`OODSCORE_MODELS_DIR=models`, `OODSCORE_MAX_BODY_BYTES=32MiB`, ..."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    # what is served, and where
    models_dir: Path = Path("models")
    # answer where a request names no model; None: the first name in alphabetical order
    default_image_model: str | None = None
    default_text_model: str | None = None
    # models whose int8 variant is served in place of forward.onnx: names, comma separated
    int8_models: Annotated[frozenset[BundleName], NoDecode] = frozenset()
    # so many of the highest versions of each model are loaded ("all": every one), and the version
    # that answers where a request names none: NAME=VERSION, comma separated; else the highest
    loaded_versions: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_all)] = 2
    default_versions: Annotated[dict[BundleName, BundleVersion], NoDecode] = {}
    # how often the folder is looked at for versions that came or went; "off": only when asked
    reload_seconds: Annotated[
        Annotated[float, Field(ge=0.1, allow_inf_nan=False)] | None, BeforeValidator(_off)
    ] = 5.0
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000  # 0: a free one
    provider: Provider = "auto"
    # threads inside one inference; None: 1 for small networks, all usable cores for others
    threads: Annotated[int, Field(ge=1)] | None = None

    # who may ask: entries NAME:SCOPES:SHA256, separated by commas or white space, and a file with
    # one a line; none: everybody scores, nobody administers.  Requests of one key: a second in
    # the long run (None: any number), and at once after a pause
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field(default=(), repr=False)
    api_keys_file: Path | None = None
    key_requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    key_burst: Annotated[int, Field(ge=1)] = 20
    # pages of these origins may read the answers; "*": pages of any
    cors_origins: Annotated[frozenset[str], NoDecode] = frozenset()

    # limits of one request
    max_body_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(32 * _MIB)
    max_image_bytes: Annotated[ByteSize, Field(ge=1)] = ByteSize(20 * _MIB)
    max_pixels: Annotated[int, Field(ge=1)] = 16_000_000  # of one image
    max_inputs: Annotated[int, Field(ge=1)] = 256
    max_npy_inputs: Annotated[int, Field(ge=1)] = 4096
    max_text_characters: Annotated[int, Field(ge=1)] = 100_000
    request_timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0

    # how long a client may take to send the head of a request, to take its answer, to end a body
    # that has been answered; and to make its next request on the same connection
    client_patience_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    keep_alive_seconds: Annotated[int, Field(ge=0)] = 75  # longer than balancers keep theirs

    # limits of all requests together
    max_queued_inputs: Annotated[int, Field(ge=1)] = 8192  # waiting or being scored
    # how long what waits may take before more is refused; a request may lower it for itself
    max_queued_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
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
    drift_run_length: Annotated[float, Field(ge=1000, allow_inf_nan=False)] = 300_000.0
    drift_state_file: Path | None = None

    # capture for review: a folder turns it on.  The most OOD inputs of each predicted label, so
    # many of a label and of all, so many bytes, no older than so many days; a callable by its
    # import path ("package.module:name") that sees every input before it is written
    capture_dir: Path | None = None
    capture_per_label: Annotated[int, Field(ge=1)] = 20
    capture_max_inputs: Annotated[int, Field(ge=1)] = 2000
    capture_max_bytes: Annotated[ByteSize, Field(ge=_MIB)] = ByteSize(256 * _MIB)
    capture_retention_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    capture_redaction: ImportString[Callable[..., object]] | None = None

    # shutting down: unready for `delay`, then accepted requests have `grace` to finish
    shutdown_delay_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    shutdown_grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    log_level: LogLevel = "info"

    _keys: tuple[ApiKey, ...] = PrivateAttr(default=())

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """Those of `api_keys` and of the file, as it is now."""
        return self._keys

    @property
    def default_models(self) -> dict[Modality, str]:
        """Those that are set, by modality."""
        named: dict[Modality, str | None] = {
            "image": self.default_image_model,
            "text": self.default_text_model,
        }
        return {modality: name for modality, name in named.items() if name is not None}

    @field_validator("api_keys", mode="before")
    @classmethod
    def _parse_keys(cls, value: object) -> object:
        return parse_entries(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _known_origins(cls, origins: frozenset[str]) -> frozenset[str]:
        if wrong := [o for o in origins if o != "*" and not _ORIGIN.fullmatch(o)]:
            raise ValueError(
                f"{', '.join(sorted(wrong))}: an origin is https://host or http://host:port, "
                "without a path"
            )
        return origins

    @field_validator("int8_models", "cors_origins", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return frozenset(name.strip() for name in value.split(",")) if value.strip() else ()

    @field_validator("default_versions", mode="before")
    @classmethod
    def _split_into_pairs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.strip().partition("=") for pair in value.split(",") if pair.strip()]
        if wrong := [name for name, equals, version in pairs if not (equals and version)]:
            raise ValueError(f"{', '.join(wrong)}: write NAME=VERSION, comma separated")
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) != len(names):
            raise ValueError("a model is named twice")
        return {name.strip(): version.strip() for name, _, version in pairs}

    @model_validator(mode="after")
    def _read_keys(self) -> Self:
        self._keys = self.api_keys
        if self.api_keys_file is not None:
            entries = read_key_file(self.api_keys_file)
            self._keys = check_distinct((*self.api_keys, *entries))
        if self.key_requests_per_second is not None and not self._keys:
            raise ValueError(
                "key_requests_per_second limits keys, and there are none: see api_keys"
            )
        return self

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


def unknown_variables() -> dict[str, str | None]:
    """Variables of the environment that pass for settings and are none -> the setting that one of
    nearly that name has, which is what was meant."""
    known = Settings.model_fields
    names = {name: name.removeprefix(_PREFIX).lower() for name in os.environ}
    unknown = {
        variable: name
        for variable, name in names.items()
        if variable.startswith(_PREFIX) and name not in known and name not in _OF_OTHERS
    }
    meant = {v: get_close_matches(name, known, n=1, cutoff=0.8) for v, name in unknown.items()}
    return {v: _PREFIX + near[0].upper() if near else None for v, near in meant.items()}
