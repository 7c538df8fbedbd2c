"""What becomes of the words of a text in an ONNX graph, from their embeddings to the features.

A tensor that every path leads through holds all that is known of the text there, as the output of
a block of a transformer or of a recurrent layer does.  Beside a shortcut, or within attention,
none is such a passage.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from training.backbones.onnx_graph import inputs_of, makers_of, nodes_before

# those with weights are what depth is counted by
_WEIGHTED = frozenset({"Conv", "Gemm", "GRU", "LSTM", "MatMul", "MatMulInteger", "RNN"})
_RESHAPING = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_SIZES = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Passage:
    """`depth`: how many operators with weights of their own the words went through, up to here."""

    tensor: str
    depth: int


def passages(model: ModelProto, ids: str, features: str) -> list[Passage]:
    """In the graph's order, `features` last; empty where no table of embeddings is found."""
    varying = _descendants(model, {value.name for value in inputs_of(model)})
    nodes = nodes_before(model, features)
    embeddings = {node.output[0] for node in _lookups(model, ids)}
    stream: set[str] = set()
    flowing: list[tuple[int, NodeProto]] = []
    last_use: dict[str, int] = {features: len(nodes)}
    for place, node in enumerate(nodes):
        read = stream.intersection(node.input)
        if (read or embeddings.intersection(node.output)) and node.op_type not in _SIZES:
            stream.update(filter(None, node.output))
            flowing.append((place, node))
            last_use |= {name: max(place, last_use.get(name, 0)) for name in read}
    found: list[Passage] = []
    depth = open_until = 0
    for place, node in flowing:
        given = set(filter(None, node.input))
        depth += node.op_type in _WEIGHTED and not given <= varying
        uses = {name: last_use[name] for name in node.output if name in last_use}
        for name in uses:
            others = max((use for other, use in uses.items() if other != name), default=0)
            if max(open_until, others) <= place:
                found.append(Passage(name, depth))
        open_until = max(open_until, *uses.values(), 0)
    return found


def words_known(model: ModelProto, ids: str) -> int | None:
    """Rows of the smallest table that token ids are looked up in; None where none is found."""
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    tables = [node.input[0] for node in _lookups(model, ids)]
    return min((rows[table] for table in tables if table in rows), default=None)


def quarters(found: Sequence[Passage]) -> list[str]:
    """The last passages before a quarter, half and three quarters of the depth, from the first
    operator on: a projection of the embeddings may stand before the blocks."""
    deepest = max((passage.depth for passage in found), default=0)
    chosen: list[str] = []
    for quarter in (1, 2, 3):
        reached = [each.tensor for each in found if 4 * (each.depth - 1) <= quarter * (deepest - 1)]
        if deepest and reached:
            chosen.append(reached[-1])
    return list(dict.fromkeys(chosen))


def _lookups(model: ModelProto, ids: str) -> list[NodeProto]:
    """Nodes that look the ids themselves, of any shape, up in a table that is a constant."""
    makers = makers_of(model)
    same = {ids}
    found: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type in _RESHAPING and node.input[0] in same:
            same.update(node.output)
        if node.op_type == "Gather" and node.input[1] in same and node.input[0] not in makers:
            found.append(node)
    return found


def _descendants(model: ModelProto, names: Set[str]) -> set[str]:
    """Every tensor that depends on one of them."""
    found = set(names)
    for node in model.graph.node:
        if found.intersection(node.input):
            found.update(filter(None, node.output))
    return found
