"""A model as it comes -> one a graph can be built from: types of tensors, constants."""

from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

_OLDEST_OPSET = 18
_CONSTANT_TYPES: dict[str, Any] = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}
Dim = int | str | None  # a number, a named symbol, or unknown


class TensorType(NamedTuple):
    """`dtype` is onnx's element type, 0 if unknown; `shape` is None if the rank is unknown."""

    dtype: int
    shape: tuple[Dim, ...] | None


def prepared(model: ModelProto) -> ModelProto:
    """Functions inlined, shapes inferred; refuses opsets whose operators differ from the rules'."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise ValueError(
            f"the model has opset {opset}; export it again with opset {_OLDEST_OPSET} or later"
        )
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def tensor_type(value: ValueInfoProto) -> TensorType:
    """What a model states about a tensor."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    dims = [
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim
    ]
    return TensorType(tensor.elem_type, tuple(dims))


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """What a Constant node of numbers holds; None for every other node."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    (stated,) = node.attribute
    if stated.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(stated.t)
        return tensor
    if stated.name not in _CONSTANT_TYPES:
        return None
    value = helper.get_attribute_value(stated)
    return numpy_helper.from_array(np.asarray(value, _CONSTANT_TYPES[stated.name]))
