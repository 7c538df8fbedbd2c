"""A Scan written from Python: the same few nodes at every step of a sequence.

An engine runs a Scan on the processor that drives the device, step after step: CUDA graphs,
which record a fixed series of kernels, cannot hold one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from onnx import NodeProto, helper

from training.export.backward.step import Step


class Turn:
    """What happens at one step of the sequence.

    Nodes read what the turn is given, one another, and any tensor of the graph around.  Names
    begin with that of the layer's output: the same turn is the same node to the graph.
    """

    def __init__(self, layer: str) -> None:
        self.nodes: list[NodeProto] = []
        self._layer = layer
        self._count = 0

    def name(self, stem: str) -> str:
        """A name that no tensor of the graph around has."""
        self._count += 1
        return f"{self._layer}/turn/{stem}_{self._count}"

    def add(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append one node and return its output."""
        output = self.name(op_type)
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], **attributes))
        return output


States = tuple[list[str], list[str]]  # those of the next step, and the results of this one
TurnRule = Callable[[Turn, list[str], list[str]], States]  # from the states and the elements


def scanned(
    step: Step, rule: TurnRule, states: Sequence[str], sequences: Sequence[str], *, from_end: bool
) -> list[str]:
    """Take the states along the sequences, first axis = steps; return the results, stacked.

    A result stands where the elements stood that it was made of, also `from_end`.
    """
    turn = Turn(step.y)
    given = [turn.name("state") for _ in states]
    elements = [turn.name("element") for _ in sequences]
    following, results = rule(turn, given, elements)
    # an output of the body has a name of its own, even if a state is a result, too
    outputs = [turn.add("Identity", [name]) for name in (*following, *results)]
    real = step.graph.element_type(step.y)
    body = helper.make_graph(
        turn.nodes,
        "turn",
        [helper.make_tensor_value_info(name, real, None) for name in (*given, *elements)],
        [helper.make_tensor_value_info(name, real, None) for name in outputs],
    )
    made = step.graph.add_node(
        "Scan",
        [*states, *sequences],
        len(outputs),
        body=body,
        num_scan_inputs=len(sequences),
        scan_input_directions=[int(from_end)] * len(sequences),
        scan_output_directions=[int(from_end)] * len(results),
    )
    return list(made[len(states) :])
