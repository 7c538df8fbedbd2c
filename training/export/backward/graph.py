"""The graph a detector's export works on: add, differentiate, replay, write out."""

from collections.abc import Mapping, Sequence

from onnx import ModelProto

from training.export.backward.assemble import assembled
from training.export.backward.replay import replayed
from training.export.backward.reverse import vector_jacobian_product
from training.export.backward.step import Lowering
from training.export.backward.store import GraphStore


class Graph(GraphStore):
    """A mutable copy of an inference graph that can be differentiated."""

    def backward(self, cotangents: Mapping[str, str], wrt: str, lowering: Lowering = "cpu") -> str:
        """Append vector-Jacobian products; return the name of dL/d(wrt), shaped as `wrt`.

        `cotangents` maps tensors to the tensors that hold dL/d(tensor); both must be in the
        graph.  Raises UnsupportedOperator before anything is written.
        """
        return vector_jacobian_product(self, cotangents, wrt, lowering)

    def replay(self, replacements: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
        """Run the nodes between the replaced tensors and `wanted` again; return the new names."""
        return replayed(self, replacements, wanted)

    def to_model(self, outputs: Mapping[str, str]) -> ModelProto:
        """A checked model that computes these outputs (public name -> tensor) and nothing else."""
        return assembled(self, outputs)
