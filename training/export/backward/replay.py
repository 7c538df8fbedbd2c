"""Run part of the forward pass again with some tensors replaced."""

from collections.abc import Mapping, Sequence

from training.export.backward.nodes import read_names, renamed
from training.export.backward.reverse import ancestors
from training.export.backward.store import GraphStore


def replayed(
    graph: GraphStore, replacements: Mapping[str, str], wanted: Sequence[str]
) -> list[str]:
    """Clone the nodes between the replaced tensors and `wanted`, reading the replacements.

    Returns the new name of each wanted tensor, its own name if it depends on none of them.
    """
    for name in (*replacements, *replacements.values(), *wanted):
        if not graph.has(name):
            raise ValueError(f"the graph has no tensor {name!r}")
    names = dict(replacements)
    dependent = []
    for node in ancestors(graph, wanted):
        if not names.keys().isdisjoint(read_names(node)):
            dependent.append(node)
            names.update((o, graph.fresh_name(o)) for o in node.output if o and o not in names)
    needed = set(wanted) - replacements.keys()
    kept = []
    for node in reversed(dependent):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(set(read_names(node)) - replacements.keys())
    # Types hold again only if the replacements have those of what they replace.
    alike = all(
        graph.tensor_type(old) == graph.tensor_type(new) for old, new in replacements.items()
    )
    for node in reversed(kept):
        # A replaced tensor's own producer may still be needed for another of its outputs.
        spared = {o: graph.fresh_name(o) for o in node.output if o in replacements}
        graph.append(renamed(node, {**names, **spared}), node if alike else None)
    return [names.get(name, name) for name in wanted]
