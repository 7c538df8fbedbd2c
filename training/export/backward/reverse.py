"""The reverse sweep: cotangents of chosen tensors -> cotangent of one tensor before them."""

from collections.abc import Iterable, Mapping
from typing import get_args

from onnx import NodeProto, TensorProto

from training.export.backward.errors import UnsupportedOperator
from training.export.backward.nodes import read_names
from training.export.backward.rules import RULES
from training.export.backward.step import Lowering, Step
from training.export.backward.store import GraphStore

_DIFFERENTIABLE = (
    TensorProto.UNDEFINED,  # an unknown type is not a reason to lose a gradient
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
)


def vector_jacobian_product(
    graph: GraphStore, cotangents: Mapping[str, str], wrt: str, lowering: Lowering
) -> str:
    """Append the nodes that turn dL/d(seeds) into dL/d(wrt), and return the latter's name.

    Integer and boolean tensors carry no gradient, as in automatic differentiation: a shape
    computation or a comparison ends the path.  Raises UnsupportedOperator, leaving the graph
    as it was, and ValueError if no seed depends on `wrt`.
    """
    _check(graph, cotangents, wrt, lowering)
    path, reached = _path(graph, cotangents, wrt)
    for node in path:
        if node.op_type not in RULES or node.domain not in ("", "ai.onnx"):
            raise UnsupportedOperator(node.op_type, node.output[0])
    before = graph.snapshot()
    parts: dict[str, list[str]] = {seed: [given] for seed, given in cotangents.items()}
    try:
        for node in reversed(path):
            _step_back(graph, node, parts, reached, lowering)
        if wrt not in parts:
            raise ValueError(f"the gradient of {sorted(cotangents)} by {wrt!r} is zero everywhere")
    except (UnsupportedOperator, ValueError):
        graph.restore(before)
        raise
    return _total(graph, wrt, parts[wrt])


def ancestors(graph: GraphStore, names: Iterable[str]) -> list[NodeProto]:
    """The nodes the tensors are computed by, in the order of the graph."""
    needed = set(names)
    nodes: list[NodeProto] = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(read_names(node))
    return nodes[::-1]


def _path(
    graph: GraphStore, seeds: Iterable[str], wrt: str
) -> tuple[list[NodeProto], frozenset[str]]:
    """Nodes between `wrt` and the seeds, and the real-valued tensors that depend on `wrt`."""
    reached = {wrt}
    path: list[NodeProto] = []
    for node in ancestors(graph, seeds):
        if reached.isdisjoint(read_names(node)):
            continue
        real = [o for o in node.output if o and graph.element_type(o) in _DIFFERENTIABLE]
        if real and wrt not in node.output:
            path.append(node)
            reached.update(real)
    return _leading_to(path, set(seeds)), frozenset(reached)


def _leading_to(path: list[NodeProto], needed: set[str]) -> list[NodeProto]:
    """Only nodes with an output that reaches a seed through other nodes of the path."""
    kept: list[NodeProto] = []
    for node in reversed(path):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(read_names(node))
    return kept[::-1]


def _step_back(
    graph: GraphStore,
    node: NodeProto,
    parts: dict[str, list[str]],
    reached: frozenset[str],
    lowering: Lowering,
) -> None:
    cotangents = tuple(
        _total(graph, output, parts[output]) if output in parts else None for output in node.output
    )
    if not any(cotangents):
        return
    wanted = frozenset(i for i, name in enumerate(node.input) if name in reached)
    step = Step(graph, node, cotangents, wanted, lowering)
    for position, cotangent in RULES[node.op_type](step).items():
        if position in wanted:
            parts.setdefault(node.input[position], []).append(cotangent)


def _total(graph: GraphStore, name: str, parts: list[str]) -> str:
    """A tensor read several times gets the sum of what comes back from each reader."""
    if len(parts) > 1:
        parts[:] = [graph.add("Add" if len(parts) == 2 else "Sum", parts)]
    graph.declare_type(parts[0], like=name)
    return parts[0]


def _check(graph: GraphStore, cotangents: Mapping[str, str], wrt: str, lowering: Lowering) -> None:
    if lowering not in get_args(Lowering):
        raise ValueError(f"lowering is {lowering!r}; choose one of {', '.join(get_args(Lowering))}")
    if not cotangents:
        raise ValueError("backward needs the cotangent of at least one tensor")
    for name in (wrt, *cotangents, *cotangents.values()):
        if not graph.has(name):
            raise ValueError(f"the graph has no tensor {name!r}")
