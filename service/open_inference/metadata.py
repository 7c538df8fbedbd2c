"""What the server and a model say of themselves."""

from collections.abc import Sequence
from importlib.metadata import version as installed_version

from service.bundle import Manifest
from service.open_inference.outputs import output_datatypes
from service.open_inference.schemas import ModelMetadata, ServerMetadata, TensorMetadata
from service.open_inference.tensors import DATATYPES, INPUT_NAMES, PIXELS

_PLATFORM = "oodscore_onnx"
_ANY = -1


def server_metadata() -> ServerMetadata:
    return ServerMetadata(
        name="oodscore",
        version=installed_version("oodscore"),
        extensions=["binary_tensor_data"],
    )


def model_metadata(manifest: Manifest, versions: Sequence[str]) -> ModelMetadata:
    """Outputs: those of detectors on demand, and `error`, come only if asked for."""
    detectors = [spec.name for spec in manifest.detectors]
    return ModelMetadata(
        name=manifest.name,
        versions=list(versions),
        platform=_PLATFORM,
        inputs=[
            TensorMetadata.model_validate(
                {
                    "name": name,
                    "datatype": DATATYPES[name],
                    "shape": [_ANY] * 4 if name == PIXELS else [_ANY],
                }
            )
            for name in INPUT_NAMES[manifest.modality]
        ],
        outputs=[
            TensorMetadata(name=name, datatype=datatype, shape=[_ANY])
            for name, datatype in output_datatypes(manifest.modality, detectors).items()
        ],
    )
