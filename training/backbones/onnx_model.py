"""A classifier that is an ONNX graph already: `backbone = "onnx"`.

    backbone_options = { file = "sorter.onnx", taps = { stem = "/stem/Relu_output_0" } }

The graph stays as it is and is run by onnxruntime; a bundle's graph is this one with the scores
appended.  It has no gradients and no dropout: detectors that need either are refused.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from torch import Tensor, nn

from training.backbones.layers import Layer, Survey, reads_average
from training.backbones.tapped import PENULTIMATE, listed
from training.classifier import Backbone
from training.config import expand_variables
from training.outputs import Outputs

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_LONGEST_TAP = 40
_SHAPING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze"})


class OnnxModel(nn.Module):
    """file: reads float32 (N, C, H, W), normalised, and gives logits (N, K) made by one linear
    layer (Gemm, or MatMul and Add); a Softmax behind it is taken off.  taps: tap name -> name of
    a tensor.  ValueError names what does not fit."""

    def __init__(
        self,
        channels: int,
        classes: int | None,
        *,
        file: str,
        taps: Mapping[str, str] | Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.file = _existing(file)
        self.model = _loaded(self.file)
        self.input = _input_of(self.model, channels, file)
        self.logits, self.features, self.head = _head_of(self.model, file)
        if classes is not None and self.head.out_features != classes:
            raise ValueError(
                f"{file}: gives {self.head.out_features} logits, the data have {classes} classes"
            )
        self.tensors = dict(taps) if isinstance(taps, Mapping) else tap_names(taps)
        known = {name for node in self.model.graph.node for name in node.output}
        if unknown := sorted(set(self.tensors.values()) - known):
            raise ValueError(f"{file}: has no tensors {unknown}; there are: {listed(known)}")
        self.tap_names = (*self.tensors, PENULTIMATE)
        self.penultimate = PENULTIMATE
        self._session = _session(self.tapped())

    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that scores are made of: taps, features, logits."""
        return (*self.tensors.values(), self.features, self.logits)

    def tapped(self) -> ModelProto:
        """The graph with `outputs` as its outputs."""
        return _with_outputs(self.model, self.outputs())

    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W), normalised -> what onnxruntime computes; no gradient goes back."""
        names = list(dict.fromkeys(self.outputs()))
        values = self._session.run(names, {self.input: images.detach().cpu().numpy()})
        given = dict(zip(names, values, strict=True))
        *taps, features, logits = (
            torch.from_numpy(np.asarray(given[name])).to(images.device) for name in self.outputs()
        )
        named = dict(zip(self.tensors, taps, strict=True))
        return Outputs(named | {PENULTIMATE: features}, logits, PENULTIMATE)

    def survey(self, images: Tensor) -> Survey:
        """Every tensor of the graph up to the head."""
        nodes = _before(self.model, self.features)
        names = [name for node in nodes for name in node.output if name]
        wanted = list(dict.fromkeys([*names, self.features]))
        session = _session(_with_outputs(self.model, wanted))
        values = session.run(wanted, {self.input: images.numpy()})
        found = {name: np.asarray(value) for name, value in zip(wanted, values, strict=True)}
        features, given = found[self.features], [found[name] for name in names]
        kinds = {name: node.op_type for node in nodes for name in node.output}
        layers = tuple(
            Layer(name, kinds[name], _shape(value, len(images)), 1, kinds[name] in _SHAPING)
            for name, value in zip(names, given, strict=True)
        )
        read = torch.from_numpy(features)
        averaged = any(
            reads_average(torch.from_numpy(value), read) for value in given if value.ndim == 4
        )
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


def tap_names(tensors: Sequence[str]) -> dict[str, str]:
    """Names fit for scores, made of the ends of the tensors' names."""
    found: dict[str, str] = {}
    for tensor in tensors:
        words = re.sub(r"\W+", "_", tensor.removesuffix("_output_0")).lower().strip("_")
        name = words[-_LONGEST_TAP:].lstrip("_") or "tap"
        while name in found:
            name = f"{name[: _LONGEST_TAP - 2]}_{len(found)}"
        found[name] = tensor
    return found


def input_size(file: str) -> tuple[int, int] | None:
    """Height and width of the images a graph reads, where it says."""
    shape = _inputs(_loaded(_existing(file)))[0].type.tensor_type.shape.dim
    if len(shape) != 4 or not (shape[2].dim_value and shape[3].dim_value):
        return None
    return shape[2].dim_value, shape[3].dim_value


def _existing(file: str) -> Path:
    expanded = expand_variables(file)
    if expanded is None or not Path(expanded).is_file():
        raise ValueError(f"{file}: there is no such file")
    return Path(expanded)


def _loaded(path: Path) -> ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        return shape_inference.infer_shapes(model)
    except Exception as exc:  # protobuf and the checker have a dozen of their own
        raise ValueError(f"{path}: is no usable ONNX model ({exc})") from exc


def _inputs(model: ModelProto) -> list[Any]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _input_of(model: ModelProto, channels: int, file: str) -> str:
    inputs = _inputs(model)
    if len(inputs) != 1:
        raise ValueError(
            f"{file}: has the inputs {[value.name for value in inputs]}; one, of images, is read"
        )
    kind = inputs[0].type.tensor_type
    sizes = [dim.dim_value or dim.dim_param or "?" for dim in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(sizes) != 4 or sizes[1] not in (channels, "?"):
        raise ValueError(
            f"{file}: input {inputs[0].name} is {sizes}; expected float32 (N, {channels}, H, W)"
        )
    if isinstance(sizes[0], int):
        raise ValueError(
            f"{file}: takes exactly {sizes[0]} images at a time; export it with a dynamic first "
            "dimension (dynamic_axes, or dynamic_shapes)"
        )
    return inputs[0].name


def _head_of(model: ModelProto, file: str) -> tuple[str, str, nn.Linear]:
    """Names of logits and features, and the linear layer between them."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    logits = model.graph.output[0].name
    node = makers.get(logits)
    if node is not None and node.op_type in ("Softmax", "LogSoftmax"):
        logits = node.input[0]
        node = makers.get(logits)
    found = None
    if node is not None and node.op_type == "Gemm":
        found = _gemm(node, constants)
    elif node is not None and node.op_type == "Add":
        found = _product_and_sum(node, makers, constants)
    if found is None:
        kind = "nothing" if node is None else node.op_type
        raise ValueError(
            f"{file}: {logits} is made by {kind}; the logits, its first output, must be made by "
            "one linear layer of features (Gemm, or MatMul and Add, with constant weights)"
        )
    features, weight, bias = found
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight.copy()))
        head.bias.copy_(torch.from_numpy(bias.copy()))
    return logits, features, head.requires_grad_(False)


Constants = Mapping[str, NDArray[Any]]


def _gemm(node: NodeProto, constants: Constants) -> tuple[str, NDArray[Any], NDArray[Any]] | None:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    weight = constants.get(node.input[1])
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA")
    if weight is None or not plain:
        return None
    weight = weight if given.get("transB") else weight.T
    bias = constants.get(node.input[2]) if len(node.input) > 2 else np.zeros(len(weight))
    return None if bias is None else (node.input[0], weight, np.broadcast_to(bias, len(weight)))


def _product_and_sum(
    node: NodeProto, makers: Mapping[str, NodeProto], constants: Constants
) -> tuple[str, NDArray[Any], NDArray[Any]] | None:
    for product, bias in (node.input, reversed(node.input)):
        maker = makers.get(product)
        if maker is None or maker.op_type != "MatMul" or bias not in constants:
            continue
        weight = constants.get(maker.input[1])
        if weight is not None and weight.ndim == 2:
            return maker.input[0], weight.T, np.broadcast_to(constants[bias], weight.shape[1])
    return None


def _before(model: ModelProto, tensor: str) -> list[NodeProto]:
    """The nodes that lead to a tensor, in the graph's order, constants left out."""
    wanted = {tensor}
    kept: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    floats = {
        value.name
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    return [
        node
        for node in reversed(kept)
        if node.op_type != "Constant" and floats.issuperset(node.output)
    ]


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in dict.fromkeys(names)
    )
    return changed


def _session(model: ModelProto) -> Any:
    import onnxruntime  # after the telemetry switch

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _shape(value: NDArray[Any], batch: int) -> tuple[int, ...]:
    return value.shape[1:] if value.ndim > 1 and len(value) == batch else ()
