"""A classifier of images that is an ONNX graph already: `backbone = "onnx"`.

backbone_options = { file = "sorter.onnx", taps = { stem = "/stem/Relu_output_0" } }
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from torch import Tensor

from training.backbones.given_files import named_taps
from training.backbones.layers import Layer, Survey, reads_average
from training.backbones.onnx_graph import (
    SHAPING,
    OnnxGraph,
    inputs_of,
    load_model,
    makers_of,
    sizes_of,
)
from training.classifier import Backbone
from training.outputs import Outputs


class OnnxModel(OnnxGraph):
    """file: reads float32 (N, C, H, W), normalised, and gives logits (N, K).  taps: tap name ->
    name of a tensor.  ValueError names what does not fit."""

    def __init__(
        self,
        channels: int,
        classes: int | None,
        *,
        file: str,
        taps: Mapping[str, str] | Sequence[str] = (),
    ) -> None:
        model = load_model(file)
        tensors = named_taps(file, taps, makers_of(model), "tensors")
        super().__init__(file, model, [_input_of(model, channels, file)], classes, tensors)

    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W), normalised -> taps as the graph gives them, `penultimate` (B, D) last."""
        return self.computed(images)

    def survey(self, images: Tensor) -> Survey:
        """Every tensor of the graph up to the head."""
        kinds = self.every_tensor()
        values = self.values_of([*kinds, self.features], images)
        layers = tuple(
            Layer(name, kind, _shape(values[name], len(images)), 1, kind in SHAPING)
            for name, kind in kinds.items()
        )
        read = torch.from_numpy(values[self.features])
        maps = [values[name] for name in kinds if values[name].ndim == 4]
        averaged = any(reads_average(torch.from_numpy(value), read) for value in maps)
        square = images.shape[2] == images.shape[3]
        return Survey(layers, self.features, read, self.head.out_features, averaged, square)


def onnx_model(
    channels: int,
    classes: int | None,
    *,
    file: str,
    taps: Mapping[str, str] | Sequence[str] = (),
) -> Backbone:
    """An OnnxModel, by the options of a config."""
    return cast(Backbone, OnnxModel(channels, classes, file=file, taps=taps))


def input_size(file: str) -> tuple[int, int] | None:
    """Height and width of the images a graph reads, where it says."""
    sizes = sizes_of(inputs_of(load_model(file))[0])
    if len(sizes) != 4 or not (isinstance(sizes[2], int) and isinstance(sizes[3], int)):
        return None
    return sizes[2], sizes[3]


def _input_of(model: ModelProto, channels: int, file: str) -> str:
    inputs = inputs_of(model)
    if len(inputs) != 1:
        raise ValueError(
            f"{file}: has the inputs {[value.name for value in inputs]}; one, of images, is read"
        )
    sizes = sizes_of(inputs[0])
    floats = inputs[0].type.tensor_type.elem_type == TensorProto.FLOAT
    if not floats or len(sizes) != 4 or sizes[1] not in (channels, "?"):
        raise ValueError(
            f"{file}: input {inputs[0].name} is {sizes}; expected float32 (N, {channels}, H, W)"
        )
    if isinstance(sizes[0], int):
        raise ValueError(
            f"{file}: takes exactly {sizes[0]} images at a time; export it with a dynamic first "
            "dimension (dynamic_axes, or dynamic_shapes)"
        )
    return inputs[0].name


def _shape(value: NDArray[Any], batch: int) -> tuple[int, ...]:
    return value.shape[1:] if value.ndim > 1 and len(value) == batch else ()
