"""GRU and LSTM against autograd through torch's own layers."""

from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper
from test_backward_harness import Array, assert_as_autograd, model_of, normal, run
from torch import Tensor, nn

from training.export.backward import Graph, UnsupportedOperator

READ, HIDDEN = 5, 4
GATES = {"GRU": 3, "LSTM": 4}
# torch's blocks of weights, in the order of ONNX: r, z, n -> z, r, n and i, f, c, o -> i, o, f, c
ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
OUTPUTS = {"states": ["Y"], "final": ["Yh"], "all": ["Y", "Yh", "Yc"]}


def layer_of(operator: str, direction: str) -> nn.GRU | nn.LSTM:
    """A layer of torch in float64; one that reads from the end is fed the sequence reversed."""
    torch.manual_seed(7)
    kind = {"GRU": nn.GRU, "LSTM": nn.LSTM}[operator]
    return kind(READ, HIDDEN, bidirectional=direction == "bidirectional").double()


def in_order(weight: Tensor, operator: str) -> Tensor:
    blocks = weight.detach().unflatten(0, (GATES[operator], HIDDEN))
    return blocks[list(ORDER[operator])].flatten(0, 1)


def model(
    operator: str,
    direction: str,
    outputs: str = "states",
    *,
    bias: bool = True,
    initial: Array | None = None,
    **attributes: Any,
) -> ModelProto:
    """y = the sum of the outputs read: all states, and the last ones broadcast over the steps."""
    layer = layer_of(operator, direction)
    stacked: dict[str, list[Tensor]] = {"W": [], "R": [], "B": []}
    for suffix in ("_l0", "_l0_reverse")[: DIRECTIONS[direction]]:
        own = {kind: in_order(layer.get_parameter(kind + suffix), operator)
               for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}  # fmt: skip
        stacked["W"].append(own["weight_ih"])
        stacked["R"].append(own["weight_hh"])
        stacked["B"].append(torch.cat([own["bias_ih"], own["bias_hh"]]))
    constants = {name: torch.stack(parts).float().numpy() for name, parts in stacked.items()}
    inputs = ["x", "W", "R", "B" if bias else ""]
    if initial is not None:
        starts = ["h0"] if operator == "GRU" else ["h0", "c0"]
        constants |= {name: initial * (1 + i) for i, name in enumerate(starts)}
        inputs += ["", *starts]
    if operator == "GRU":
        attributes = {"linear_before_reset": 1} | attributes
    made = ["Y", "Yh"] if operator == "GRU" else ["Y", "Yh", "Yc"]
    read = [name for name in OUTPUTS[outputs] if name in made]
    nodes = [
        helper.make_node(
            operator, inputs, made, hidden_size=HIDDEN, direction=direction, **attributes
        ),
        helper.make_node("Sum", read, ["y"]),
    ]
    return model_of(nodes, {"x": ["L", "N", READ]}, ["y"], constants)


def reference(
    operator: str, direction: str, outputs: str, *, bias: bool = True, initial: Array | None = None
):
    layer = layer_of(operator, direction)
    if not bias:
        for name, weight in layer.named_parameters():
            if "bias" in name:
                nn.init.zeros_(weight)

    def function(x: Tensor) -> Tensor:
        reverse = direction == "reverse"
        starts: Any = None
        if initial is not None:
            h0 = torch.from_numpy(initial).double()
            starts = h0 if operator == "GRU" else (h0, h0 * 2)
        states, ends = layer(x.flip(0) if reverse else x, starts)
        states = states.flip(0) if reverse else states
        found = {"Y": states.unflatten(2, (-1, HIDDEN)).transpose(1, 2)}
        found |= {"Yh": ends} if operator == "GRU" else {"Yh": ends[0], "Yc": ends[1]}
        parts = [found[name] for name in OUTPUTS[outputs] if name in found]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(0)

    return function


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_layer(operator: str, direction: str, outputs: str) -> None:
    """Over 1, 3 and 7 steps of three rows: by the states of all steps, by the last, by both."""
    assert_as_autograd(
        model(operator, direction, outputs),
        reference(operator, direction, outputs),
        lambda steps: 2 * normal(steps, 3, READ),
    )


@pytest.mark.parametrize("operator", GATES)
def test_rows(operator: str) -> None:
    """The same graph at any number of rows."""
    assert_as_autograd(
        model(operator, "bidirectional"),
        reference(operator, "bidirectional", "states"),
        lambda rows: 2 * normal(4, rows, READ),
    )


@pytest.mark.parametrize("operator", GATES)
def test_without_bias(operator: str) -> None:
    assert_as_autograd(
        model(operator, "forward", bias=False),
        reference(operator, "forward", "states", bias=False),
        lambda steps: normal(steps, 3, READ),
    )


@pytest.mark.parametrize("operator", GATES)
def test_from_an_initial_state(operator: str) -> None:
    initial = normal(2, 3, HIDDEN)
    assert_as_autograd(
        model(operator, "bidirectional", "all", initial=initial),
        reference(operator, "bidirectional", "all", initial=initial),
        lambda steps: normal(steps, 3, READ),
    )


@pytest.mark.parametrize("operator", GATES)
def test_long_sequences_neither_vanish_nor_burst_on_their_own(operator: str) -> None:
    """300 steps, all states read: the rule's error does not grow with the length."""
    assert_as_autograd(
        model(operator, "forward"),
        reference(operator, "forward", "states"),
        lambda steps: normal(steps, 2, READ),
        batches=(300,),
    )


@pytest.mark.parametrize("operator", GATES)
def test_two_gradients_share_what_does_not_depend_on_their_seeds(operator: str) -> None:
    """Of the sweeps of two detectors: gates and cells are made once, each has a Scan of its own."""
    graph = Graph.from_model(model(operator, "forward"))
    for cotangent in (graph.add("Tanh", ["Y"]), "Y"):
        graph.backward({"Y": cotangent}, "x")
    written = [node.op_type for node in graph.nodes]
    assert written.count("Sigmoid") == GATES[operator] - 1
    assert written.count("Scan") == {"GRU": 2, "LSTM": 3}[operator]
    x = normal(4, 3, READ)
    outputs = {"dx": graph.backward({"Y": "Y"}, "x")}
    (both,) = run(graph.to_model(outputs), {"x": x})
    alone = Graph.from_model(model(operator, "forward"))
    (expected,) = run(alone.to_model({"dx": alone.backward({"Y": "Y"}, "x")}), {"x": x})
    np.testing.assert_array_equal(both, expected)


def test_a_replay_of_a_gradient_reads_the_new_sequence() -> None:
    """A Scan's body reads weights from around it; what it reads is found when nodes are cloned."""
    graph = Graph.from_model(model("LSTM", "forward"))
    dx = graph.backward({"y": "y"}, "x")
    doubled = graph.add("Mul", ["x", graph.constant(np.float32(2))])
    (again,) = graph.replay({"x": doubled}, [dx])
    x = normal(4, 3, READ)
    (moved,) = run(graph.to_model({"again": again}), {"x": x})
    (expected,) = run(graph.to_model({"dx": dx}), {"x": 2 * x})
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "attributes", "advice"),
    [
        ("GRU", {"linear_before_reset": 0}, "linear_before_reset=1"),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}, "activations"),
        ("LSTM", {"input_forget": 1}, "coupled"),
        ("LSTM", {"clip": 3.0}, "clip"),
    ],
)
def test_variants_torch_does_not_have_are_refused(
    operator: str, attributes: dict[str, Any], advice: str
) -> None:
    graph = Graph.from_model(model(operator, "forward", **attributes))
    before = len(graph.nodes)
    with pytest.raises(UnsupportedOperator, match=f"{operator}.*{advice}"):
        graph.backward({"y": "y"}, "x")
    assert len(graph.nodes) == before
