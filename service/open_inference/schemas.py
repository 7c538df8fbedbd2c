"""Wire types of the protocol."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

Datatype = Literal["BOOL", "UINT8", "INT64", "FP32", "FP64", "BYTES"]
Parameters = dict[str, Any]  # requests.py knows which there are, and of which kind
Size = Annotated[int, Field(ge=0)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class InputTensor(_Closed):
    """`data` in the JSON, or `binary_data_size` bytes behind it."""

    name: str
    shape: Annotated[list[Size], Field(max_length=8)]
    datatype: str
    parameters: Parameters = {}
    data: Any = None


class RequestedOutput(_Closed):
    """Parameter `binary_data`: whether it comes behind the JSON."""

    name: str
    parameters: Parameters = {}


class InferBody(_Closed):
    """Parameters: `detectors`, `id_acceptance`, `timeout` (microseconds), `binary_data_output`."""

    id: str | None = None
    parameters: Parameters = {}
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[RequestedOutput], FailFast()] = []


class OutputTensor(_Closed):
    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferAnswer(_Closed):
    """`model_name` and `model_version` say who answered."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(_Closed):
    """-1 in a shape: any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(_Closed):
    """Of the inputs one is to be given."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(_Closed):
    name: str
    version: str
    extensions: list[str]


class ServerLive(_Closed):
    live: bool


class ServerReady(_Closed):
    ready: bool


class ModelReady(_Closed):
    name: str
    ready: bool


class V2Error(_Closed):
    """`error` is for people; branch on `code`, which is that of POST /score."""

    error: str
    code: str
