"""An ONNX graph that grows: nodes in topological order, initializers, types of tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from training.export.backward.loading import (
    Dim,
    TensorType,
    constant_tensor,
    prepared,
    tensor_type,
)
from training.export.backward.nodes import read_names, renamed


@dataclass(frozen=True)
class Snapshot:
    """What a store held at one moment; see `GraphStore.restore`."""

    nodes: int
    initializers: frozenset[str]
    made: dict[bytes, tuple[str, ...]]


class GraphStore:
    """A mutable copy of an inference graph; every node reads only what was made before it.

    `add` never makes the same node twice: asked again for the same operator on the same
    tensors, it returns the tensor it has.  Operators are taken to be deterministic.
    """

    def __init__(self, model: ModelProto) -> None:
        model = prepared(model)
        graph = model.graph
        self.header = ModelProto()
        self.header.CopyFrom(model)
        self.header.ClearField("graph")
        self.graph_name = graph.name or "graph"
        self.initializers: dict[str, TensorProto] = {}
        self.output_names = [value.name for value in graph.output]
        self.nodes: list[NodeProto] = []
        self._types = {
            value.name: tensor_type(value)
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._names = {value.name for value in graph.input}
        self._producers: dict[str, NodeProto] = {}
        self._made: dict[bytes, tuple[str, ...]] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._inferred_at = 0
        self._counter = 0
        for tensor in graph.initializer:
            self._keep_initializer(tensor.name, tensor)
        self.inputs = [value for value in graph.input if value.name not in self.initializers]
        for node in graph.node:
            constant = constant_tensor(node)
            if constant is None:
                self._append(node)
            else:
                self._keep_initializer(node.output[0], constant)
        self._inferred_at = len(self.nodes)

    @classmethod
    def from_model(cls, model: ModelProto) -> Self:
        """A graph of its own, made from an inference model of opset 18 or later."""
        return cls(model)

    # reading

    def has(self, name: str) -> bool:
        return name in self._names

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes the tensor; None for inputs and initializers."""
        return self._producers.get(name)

    def value(self, name: str) -> NDArray[Any] | None:
        """What an initializer holds; None for every other tensor."""
        tensor = self.initializers.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def tensor_type(self, name: str) -> TensorType:
        """Type of a tensor, inferred if need be."""
        if name not in self._types and self._inferred_at < len(self.nodes):
            self._infer_types()
        return self._types.get(name, TensorType(TensorProto.UNDEFINED, None))

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Known dimensions; None where not even the rank is known."""
        return self.tensor_type(name).shape

    def element_type(self, name: str) -> int:
        """onnx.TensorProto's number for the tensor's elements, 0 if unknown."""
        return self.tensor_type(name).dtype

    def known_type(self, name: str) -> TensorType | None:
        """Type of a tensor if it is known already, without inference."""
        known = self._types.get(name)
        return None if known is None or known.shape is None else known

    # writing

    def add(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append one node and return its output; "" leaves an optional input out."""
        return self.add_node(op_type, inputs, 1, **attributes)[0]

    def add_node(
        self, op_type: str, inputs: Sequence[str], outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Append one node with several outputs and return their names."""
        missing = [name for name in inputs if name and name not in self._names]
        if missing:
            raise ValueError(f"{op_type} would read {missing[0]!r}, which the graph does not have")
        node = helper.make_node(op_type, list(inputs), [], **attributes)
        key = node.SerializeToString(deterministic=True) + bytes([outputs])
        if key not in self._made:
            node.output.extend(self.fresh_name(op_type) for _ in range(outputs))
            self._append(node)
            self._made[key] = tuple(node.output)
        return self._made[key]

    def append(self, node: NodeProto, like: NodeProto | None) -> None:
        """Append a finished node; its outputs have the types of another's, if one is given."""
        self._append(node)
        if like is not None:
            for name, original in zip(node.output, like.output, strict=True):
                if original in self._types:
                    self._types[name] = self._types[original]

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        """An initializer with this content; the same content is stored once."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants or self._constants[key] not in self.initializers:
            name = self.fresh_name("constant")
            self._keep_initializer(name, numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def declare_type(self, name: str, *, like: str, shape: tuple[Dim, ...] | None = None) -> None:
        """State the type of a tensor that is not known yet: that of another, or its own shape."""
        if name not in self._types:
            known = self.tensor_type(like)
            self._types[name] = known if shape is None else TensorType(known.dtype, shape)

    def rename(self, old: str, new: str) -> None:
        """Give a tensor that a node makes another name, wherever it is read."""
        if old not in self._producers:
            raise ValueError(f"cannot rename {old!r}: no node of the graph makes it")
        if new in self._names:
            raise ValueError(f"cannot rename {old!r} to {new!r}: that name is taken")
        names = {old: new}
        nodes = [renamed(node, names) for node in self.nodes]
        self.nodes, self._producers = [], {}
        for node in nodes:
            self._append(node)
        self._names.remove(old)
        self._made = {
            key: tuple(names.get(name, name) for name in outputs)
            for key, outputs in self._made.items()
        }
        self.output_names = [names.get(name, name) for name in self.output_names]
        if old in self._types:
            self._types[new] = self._types.pop(old)

    def fresh_name(self, stem: str) -> str:
        """A tensor name nothing in the graph has."""
        while True:
            self._counter += 1
            name = f"{stem}_b{self._counter}"
            if name not in self._names:
                return name

    def snapshot(self) -> Snapshot:
        return Snapshot(len(self.nodes), frozenset(self.initializers), dict(self._made))

    def restore(self, snapshot: Snapshot) -> None:
        """Forget every node and initializer written since the snapshot."""
        for node in self.nodes[snapshot.nodes :]:
            self._forget(node.output)
        del self.nodes[snapshot.nodes :]
        self._forget([name for name in self.initializers if name not in snapshot.initializers])
        self._made = snapshot.made
        self._inferred_at = min(self._inferred_at, len(self.nodes))

    def _forget(self, names: Iterable[str]) -> None:
        for name in list(names):
            self._names.discard(name)
            for table in (self._types, self._producers, self.initializers):
                table.pop(name, None)

    def _append(self, node: NodeProto) -> None:
        missing = [name for name in read_names(node) if name not in self._names]
        if missing:
            raise ValueError(f"{node.op_type} reads {missing[0]!r} before it is made")
        self.nodes.append(node)
        for name in node.output:
            if name:
                self._names.add(name)
                self._producers[name] = node

    def _keep_initializer(self, name: str, tensor: TensorProto) -> None:
        tensor.name = name
        self.initializers[name] = tensor
        self._names.add(name)
        self._types[name] = TensorType(tensor.data_type, tuple(tensor.dims))

    def _infer_types(self) -> None:
        """Types of the nodes added since the last time, by onnx's own inference."""
        graph = helper.make_graph(
            self.nodes, self.graph_name, self.inputs, [], list(self.initializers.values())
        )
        model = ModelProto()
        model.CopyFrom(self.header)
        model.graph.CopyFrom(graph)
        for value in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info:
            self._types.setdefault(value.name, tensor_type(value))
        self._inferred_at = len(self.nodes)
