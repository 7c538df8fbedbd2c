"""Graph store -> checked ONNX model that computes only what its outputs need."""

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from training.export.backward.loading import Dim
from training.export.backward.nodes import read_names, renamed
from training.export.backward.reverse import ancestors
from training.export.backward.store import GraphStore


def assembled(graph: GraphStore, outputs: Mapping[str, str]) -> ModelProto:
    """The model with these outputs (public name -> tensor); ValueError on unknown tensors."""
    for public, name in outputs.items():
        if not graph.has(name):
            raise ValueError(f"output {public!r} is to be {name!r}, which the graph does not have")
    names = _public_names(graph, outputs)
    nodes = [renamed(node, names) for node in ancestors(graph, outputs.values())]
    nodes += [
        helper.make_node("Identity", [names.get(name, name)], [public])
        for public, name in outputs.items()
        if names.get(name, name) != public
    ]
    model = ModelProto()
    model.CopyFrom(graph.header)
    model.graph.name = graph.graph_name
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(_read_initializers(graph, nodes))
    model.graph.input.extend(graph.inputs)
    model.graph.value_info.extend(_known_types(graph, nodes, names, outputs))
    model.graph.output.extend(_output_types(graph, outputs))
    onnx.checker.check_model(model, full_check=True)
    return model


def _public_names(graph: GraphStore, outputs: Mapping[str, str]) -> dict[str, str]:
    """Tensors that nodes make take their public name, those that stood in its way a fresh one.

    Inputs, initializers and a tensor with two public names are copied instead.
    """
    names: dict[str, str] = {}
    for public, name in outputs.items():
        if graph.producer(name) is not None and name not in names:
            names[name] = public
    for public in outputs:
        if graph.producer(public) is not None and public not in names:
            names[public] = graph.fresh_name(public)
        elif graph.has(public) and graph.producer(public) is None and outputs[public] != public:
            raise ValueError(
                f"output {public!r} has the name of an input or weight; choose another"
            )
    return names


def _read_initializers(graph: GraphStore, nodes: Sequence[NodeProto]) -> list[TensorProto]:
    read = {name for node in nodes for name in read_names(node)}
    return [tensor for name, tensor in graph.initializers.items() if name in read]


def _known_types(
    graph: GraphStore, nodes: Sequence[NodeProto], names: Mapping[str, str], outputs: Iterable[str]
) -> list[ValueInfoProto]:
    """Types of the inner tensors as far as the graph knows them.

    A cotangent has the shape of its tensor, the batch's symbol included, where an engine's own
    inference gives up.  Only what is known to have equal shapes stays in the memory layout that
    its convolutions use.
    """
    original = {new: old for old, new in names.items()}
    inner = {name for node in nodes for name in node.output if name} - set(outputs)
    return [
        helper.make_tensor_value_info(name, *known)
        for name in sorted(inner)
        if (known := graph.known_type(original.get(name, name))) is not None
    ]


def _output_types(graph: GraphStore, outputs: Mapping[str, str]) -> list[ValueInfoProto]:
    """Types of the outputs; a dimension of unknown size gets a name of its own."""
    values = []
    for public, name in outputs.items():
        elements, shape = graph.tensor_type(name)
        if shape is None:
            raise ValueError(f"output {public!r}: onnx cannot infer the rank of {name!r}")
        dims = [f"{public}_{k}" if _nameless(dim) else dim for k, dim in enumerate(shape)]
        values.append(helper.make_tensor_value_info(public, elements, dims))
    return values


def _nameless(dim: Dim) -> bool:
    """Whether inference could say nothing, or only number what it does not know."""
    return dim is None or (isinstance(dim, str) and dim.startswith("unk__"))
