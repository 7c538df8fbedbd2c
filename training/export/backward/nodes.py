"""Reading and rewriting single ONNX nodes, subgraphs included."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import AttributeProto, GraphProto, NodeProto


def read_names(node: NodeProto) -> Iterator[str]:
    """Every tensor the node reads: its inputs, and what its subgraphs take from outside."""
    yield from (name for name in node.input if name)
    for graph in _subgraphs(node):
        yield from _captured(graph)


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of the node in which the tensors carry their new names; others keep theirs."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name = ""
    for position, name in enumerate(copy.input):
        copy.input[position] = names.get(name, name)
    for position, name in enumerate(copy.output):
        copy.output[position] = names.get(name, name)
    for graph in _subgraphs(copy):
        _rename_captured(graph, names)
    return copy


def attribute(node: NodeProto, name: str) -> object | None:
    """The attribute's Python value (text as str), None where the node does not state it."""
    for stated in node.attribute:
        if stated.name == name:
            value = onnx.helper.get_attribute_value(stated)
            return value.decode() if isinstance(value, bytes) else value
    return None


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for stated in node.attribute:
        if stated.type == AttributeProto.GRAPH:
            yield stated.g
        yield from stated.graphs


def _own_names(graph: GraphProto) -> set[str]:
    own = {value.name for value in graph.input} | {value.name for value in graph.initializer}
    return own | {name for node in graph.node for name in node.output}


def _captured(graph: GraphProto) -> set[str]:
    read = {name for node in graph.node for name in read_names(node)}
    read |= {value.name for value in graph.output}
    return read - _own_names(graph)


def _rename_captured(graph: GraphProto, names: Mapping[str, str]) -> None:
    own = _own_names(graph)
    outside = {old: new for old, new in names.items() if old not in own}
    for position, node in enumerate(graph.node):
        graph.node[position].CopyFrom(renamed(node, outside))
    for value in graph.output:
        value.name = outside.get(value.name, value.name)
