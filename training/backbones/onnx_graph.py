"""What classifiers of images and of texts that are an ONNX graph already have in common.

The graph is run by onnxruntime as it is; a bundle's graph is this one with the scores appended.
It has no gradients and no dropout: detectors that need either are refused.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from torch import Tensor, nn

from training.backbones.given_files import check_classes
from training.backbones.tapped import PENULTIMATE
from training.config import expand_variables
from training.outputs import Outputs

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

SHAPING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze"})


class OnnxGraph(nn.Module):
    """A backbone but for `forward`, whose arguments are those of a modality.

    The logits, the graph's first output, must be made by one linear layer (Gemm, or MatMul and
    Add); a Softmax behind it is taken off.

    reads: names of the graph's inputs, in the order of `forward`'s arguments; tensors: tap name ->
    name of a tensor (B, ...).  ValueError names what does not fit.
    """

    def __init__(
        self,
        file: str,
        model: ModelProto,
        reads: Sequence[str],
        classes: int | None,
        tensors: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.file = file
        self.model = model
        self.reads = tuple(reads)
        self.logits, self.features, self.head = _head_of(model, file)
        check_classes(file, self.head.out_features, classes)
        self.tensors = dict(tensors)
        self.tap_names = (*self.tensors, PENULTIMATE)
        self.penultimate = PENULTIMATE
        self._session = session_of(self.tapped(), file)

    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that scores are made of: taps, features, logits."""
        return (*self.tensors.values(), self.features, self.logits)

    def tapped(self) -> ModelProto:
        """The graph with `outputs` as its outputs."""
        return with_outputs(self.model, self.outputs())

    def computed(self, *given: Tensor) -> Outputs:
        """What the graph reads -> what onnxruntime computes; no gradient goes back."""
        names = list(dict.fromkeys(self.outputs()))
        values = self._session.run(names, self.fed(*given))
        found = dict(zip(names, values, strict=True))
        *taps, features, logits = (
            torch.from_numpy(np.asarray(found[name])).to(given[0].device) for name in self.outputs()
        )
        named = dict(zip(self.tensors, taps, strict=True))
        return Outputs(named | {PENULTIMATE: features}, logits, PENULTIMATE)

    def fed(self, *given: Tensor) -> dict[str, NDArray[Any]]:
        """Input name -> array."""
        return {
            name: tensor.detach().cpu().numpy()
            for name, tensor in zip(self.reads, given, strict=True)
        }

    def every_tensor(self) -> dict[str, str]:
        """Name -> kind of the node that makes it, of every float32 tensor up to the head, in the
        graph's order."""
        floats = {
            value.name
            for value in self.model.graph.value_info
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        return {
            name: node.op_type
            for node in nodes_before(self.model, self.features)
            for name in node.output
            if name in floats and node.op_type != "Constant"
        }

    def values_of(self, names: Sequence[str], *given: Tensor) -> dict[str, NDArray[Any]]:
        """Any tensors of the graph, by name."""
        wanted = list(dict.fromkeys(names))
        session = session_of(with_outputs(self.model, wanted), self.file)
        values = session.run(wanted, self.fed(*given))
        return {name: np.asarray(value) for name, value in zip(wanted, values, strict=True)}


def load_model(file: str) -> ModelProto:
    """The file's graph, the types of its tensors worked out.  ValueError if it is none."""
    expanded = expand_variables(file)
    if expanded is None or not Path(expanded).is_file():
        raise ValueError(f"{file}: there is no such file")
    try:
        model = onnx.load(expanded)
        onnx.checker.check_model(model)
        return shape_inference.infer_shapes(model)
    except Exception as exc:  # protobuf and the checker have a dozen of their own
        raise ValueError(f"{file}: is no usable ONNX model ({exc})") from exc


def inputs_of(model: ModelProto) -> list[Any]:
    """What the graph reads, constants left out."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def sizes_of(value: Any) -> list[int | str]:
    """The dimensions of an input, numbers where they are fixed."""
    return [dim.dim_value or dim.dim_param or "?" for dim in value.type.tensor_type.shape.dim]


def makers_of(model: ModelProto) -> dict[str, NodeProto]:
    """Tensor -> the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def _head_of(model: ModelProto, file: str) -> tuple[str, str, nn.Linear]:
    """Names of logits and features, and the linear layer between them."""
    makers = makers_of(model)
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


def nodes_before(model: ModelProto, tensor: str) -> list[NodeProto]:
    """The nodes that lead to a tensor, in the graph's order."""
    wanted = {tensor}
    kept: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(filter(None, node.input))
            kept.append(node)
    return kept[::-1]


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy that gives these tensors, float32, in place of its own outputs."""
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in dict.fromkeys(names)
    )
    return changed


def session_of(model: ModelProto, file: str) -> Any:
    """A session on the CPU; ValueError, naming the file, where onnxruntime does not take it."""
    import onnxruntime  # after the telemetry switch

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # it has a dozen of its own
        raise ValueError(f"{file}: onnxruntime does not run it ({exc})") from exc
