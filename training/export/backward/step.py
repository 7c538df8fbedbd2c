"""What a rule gets: one node, the cotangents of its outputs, and the graph to write to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from training.export.backward.errors import UnsupportedOperator
from training.export.backward.loading import Dim
from training.export.backward.nodes import attribute
from training.export.backward.store import GraphStore

Lowering = Literal["cpu", "cuda"]
Cotangents = Mapping[int, str]  # position of an input -> dL/d(that input)


@dataclass(frozen=True)
class Step:
    """One node of the reverse sweep.

    A rule reads `g` (or `cotangents`), writes nodes by `add` and returns the cotangents of the
    inputs in `wanted`; positions it returns beyond those are ignored.
    """

    graph: GraphStore
    node: onnx.NodeProto
    cotangents: tuple[str | None, ...]
    wanted: frozenset[int]
    lowering: Lowering

    @property
    def x(self) -> str:
        """The first input."""
        return self.node.input[0]

    @property
    def y(self) -> str:
        """The first output."""
        return self.node.output[0]

    @property
    def g(self) -> str:
        """dL/d(first output); refuses where another output leads to the seeds."""
        if self.cotangents[0] is None or any(self.cotangents[1:]):
            raise self.refusal("only its first output may lead to the seeds")
        return self.cotangents[0]

    def add(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.graph.add(op_type, inputs, **attributes)

    def input(self, position: int) -> str:
        """Name of an input, "" where the node leaves it out."""
        return self.node.input[position] if position < len(self.node.input) else ""

    def attribute(self, name: str, default: Any) -> Any:
        stated = attribute(self.node, name)
        return default if stated is None else stated

    def rank(self, name: str) -> int:
        return len(self.dims(name))

    def dims(self, name: str) -> tuple[Dim, ...]:
        """Dimensions, symbols included; refuses where even the rank is unknown."""
        shape = self.graph.shape(name)
        if shape is None:
            raise self.refusal(f"the rank of {name!r} is unknown; export with known ranks")
        return shape

    def number(self, value: float) -> str:
        """A scalar constant of the elements' type of the first output."""
        return self.graph.constant(np.asarray(value, self.real_type()))

    def real_type(self) -> np.dtype[Any]:
        """The elements' type of the first output."""
        elements = self.graph.element_type(self.y)
        if not elements:
            raise self.refusal("the type of its output is unknown; onnx must be able to infer it")
        return onnx.helper.tensor_dtype_to_np_dtype(elements)

    def integers(self, values: Sequence[int]) -> str:
        """A vector of int64, as axes, shapes and offsets are given."""
        return self.graph.constant(np.asarray(values, np.int64))

    def refusal(self, advice: str) -> UnsupportedOperator:
        return UnsupportedOperator(self.node.op_type, self.y, advice)
