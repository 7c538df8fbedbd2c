"""The graph that is differentiated: what is written, shared, replayed, and put out."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_backward_harness import LOWERINGS, model_of, normal, one_node, run
from torch.nn import functional as F

from training.export.backward import Graph, Lowering, UnsupportedOperator


def small_network(opset: int = 20) -> onnx.ModelProto:
    """x -> conv -> relu (r) -> r + exp r -> mean -> logits; `side` = exp r is an output too."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Exp", ["r"], ["side"]),
        helper.make_node("Add", ["r", "side"], ["both"]),
        helper.make_node("GlobalAveragePool", ["both"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "v"], ["logits"]),
    ]
    weights = {"w": normal(4, 3, 3, 3), "v": normal(4, 5)}
    return model_of(nodes, {"x": ["N", 3, 6, 6]}, ["logits", "side"], weights, opset)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_the_original_outputs_do_not_change_by_a_bit() -> None:
    model = small_network()
    x = normal(4, 3, 6, 6)
    for lowering in LOWERINGS:
        graph = Graph.from_model(model)
        dx = graph.backward({"logits": "logits"}, "x", lowering)
        both = graph.to_model({"logits": "logits", "side": "side", "dx": dx})
        logits, side, _ = run(both, {"x": x})
        for value, expected in zip((logits, side), run(model, {"x": x}), strict=True):
            np.testing.assert_array_equal(value, expected)


def test_the_model_given_is_left_alone() -> None:
    model = small_network()
    before = model.SerializeToString(deterministic=True)
    graph = Graph.from_model(model)
    graph.to_model({"dx": graph.backward({"logits": "logits"}, "x")})
    assert model.SerializeToString(deterministic=True) == before


def test_cotangents_of_several_tensors_add_up() -> None:
    """One sweep from two tensors, one behind the other, equals the sum of two sweeps."""
    x = normal(3, 3, 6, 6)
    results = []
    for seeds in ({"logits": "logits", "r": "side"}, {"logits": "logits"}, {"r": "side"}):
        graph = Graph.from_model(small_network())
        (dx,) = run(graph.to_model({"dx": graph.backward(seeds, "x")}), {"x": x})
        results.append(dx)
    np.testing.assert_allclose(results[0], results[1] + results[2], rtol=1e-4, atol=1e-5)
    assert np.abs(results[2]).max() > 0.1


def test_the_cotangent_of_the_wanted_tensor_itself_counts() -> None:
    graph = Graph.from_model(one_node("Neg", [4]))
    both = graph.backward({"y": "y", "x": "x"}, "x")
    (dx,) = run(graph.to_model({"dx": both}), {"x": normal(2, 4)})
    np.testing.assert_allclose(dx, 2 * normal(2, 4), rtol=1e-6)


def test_seeds_that_do_not_lead_back_cost_nothing() -> None:
    """A branch beside the wanted tensor is not differentiated, not even looked at."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Det", ["x"], ["elsewhere"]),
        helper.make_node("Exp", ["a"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 3, 3]}, ["y", "elsewhere"], {})
    graph = Graph.from_model(model)
    before = len(graph.nodes)
    da = graph.backward({"y": "y", "elsewhere": "elsewhere"}, "a")
    written = [node.op_type for node in graph.nodes[before:]]
    assert written == ["Mul"], "only g times y"
    (value,) = run(graph.to_model({"da": da}), {"x": normal(2, 3, 3)})
    np.testing.assert_allclose(value, np.exp(np.tanh(normal(2, 3, 3))) ** 2, rtol=1e-5)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_repeated_sweeps_share_what_they_have_in_common(lowering: Lowering) -> None:
    graph = Graph.from_model(small_network())
    first = graph.backward({"logits": "logits"}, "x", lowering)
    written = len(graph.nodes)
    assert graph.backward({"logits": "logits"}, "x", lowering) == first
    assert len(graph.nodes) == written, "the same sweep is not written twice"
    second = graph.backward({"r": "side"}, "x", lowering)
    counts = operators(graph.to_model({"first": first, "second": second}))
    masks = {"cpu": "HardSigmoid", "cuda": "Greater"}
    assert counts[masks[lowering]] == 1, "one mask for both sweeps"
    assert counts["Transpose"] == (1 if lowering == "cpu" else 0), "one flip of the weights"


def test_weights_are_stored_once() -> None:
    model = small_network()
    graph = Graph.from_model(model)
    both = graph.to_model({"dx": graph.backward({"logits": "logits"}, "x"), "logits": "logits"})
    large = [tensor for tensor in both.graph.initializer if np.prod(tensor.dims) >= 20]
    assert sorted(tensor.name for tensor in large) == ["v", "w"]


def test_replay_equals_running_the_network_again() -> None:
    model = small_network()
    graph = Graph.from_model(model)
    moved = graph.add("Add", ["x", graph.constant(np.float32(0.25))])
    logits, side = graph.replay({"x": moved}, ["logits", "side"])
    x = normal(3, 3, 6, 6)
    replayed = run(graph.to_model({"a": logits, "b": side}), {"x": x})
    for value, expected in zip(replayed, run(model, {"x": x + np.float32(0.25)}), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_replay_clones_only_what_lies_between() -> None:
    graph = Graph.from_model(small_network())
    before = len(graph.nodes)
    other = graph.add("Neg", ["r"])
    wanted = graph.replay({"r": other}, ["both", "c", "r"])
    cloned = [node.op_type for node in graph.nodes[before + 1 :]]
    assert cloned == ["Exp", "Add"]
    assert wanted[1] == "c", "the replaced tensor does not lead there"
    assert wanted[2] == other, "a replaced tensor is its replacement"
    r = F.relu(
        F.conv2d(
            torch.from_numpy(normal(2, 3, 6, 6)), torch.from_numpy(normal(4, 3, 3, 3)), padding=1
        )
    )
    (both,) = run(graph.to_model({"both": wanted[0]}), {"x": normal(2, 3, 6, 6)})
    np.testing.assert_allclose(both, (-r + torch.exp(-r)).numpy(), rtol=1e-4, atol=1e-5)


def test_replay_replaces_several_tensors_at_once() -> None:
    graph = Graph.from_model(small_network())
    (both,) = graph.replay({"r": "x", "side": "c"}, ["both"])
    names = [list(node.input) for node in graph.nodes if both in node.output]
    assert names == [["x", "c"]]


def test_a_replayed_part_can_be_differentiated() -> None:
    graph = Graph.from_model(one_node("Exp", [4]))
    half = graph.add("Mul", ["x", graph.constant(np.float32(0.5))])
    (again,) = graph.replay({"x": half}, ["y"])
    dx = graph.backward({again: again}, "x")
    (value,) = run(graph.to_model({"dx": dx}), {"x": normal(3, 4)})
    np.testing.assert_allclose(value, 0.5 * np.exp(normal(3, 4)), rtol=1e-5)


def test_what_was_added_can_be_differentiated() -> None:
    """A second derivative: the first sweep's nodes are nodes like any other."""
    graph = Graph.from_model(one_node("Tanh", [4]))
    one = graph.add("Expand", [graph.constant(np.float32(1)), graph.add("Shape", ["y"])])
    slope = graph.backward({"y": one}, "x")
    bend = graph.backward({slope: one}, "x")
    (value,) = run(graph.to_model({"bend": bend}), {"x": normal(3, 4)})
    t = np.tanh(normal(3, 4))
    np.testing.assert_allclose(value, -2 * t * (1 - t * t), rtol=1e-4, atol=1e-6)


def test_outputs_take_their_public_names_and_keep_the_batch_symbolic() -> None:
    graph = Graph.from_model(small_network())
    (again,) = graph.replay({"x": graph.add("Neg", ["x"])}, ["logits"])
    dx = graph.backward({"logits": "logits"}, "x")
    model = graph.to_model({"logits": again, "plain": "logits", "dx": dx, "copy": dx, "x2": "x"})
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.output
    }
    image = ["N", 3, 6, 6]
    assert shapes == {
        "logits": ["N", 5], "plain": ["N", 5], "dx": image, "copy": image, "x2": image,
    }  # fmt: skip
    x = normal(2, 3, 6, 6)
    logits, plain, dx_value, copy, x2 = run(model, {"x": x})
    np.testing.assert_array_equal(plain, run(small_network(), {"x": x})[0])
    np.testing.assert_array_equal(logits, run(small_network(), {"x": -x})[0])
    np.testing.assert_array_equal(dx_value, copy)
    np.testing.assert_array_equal(x2, x)


def test_a_public_name_that_an_input_has_is_refused() -> None:
    graph = Graph.from_model(one_node("Neg", [4]))
    with pytest.raises(ValueError, match="output 'x' has the name of an input or weight"):
        graph.to_model({"x": "y"})


def test_dead_nodes_and_initializers_are_left_out() -> None:
    graph = Graph.from_model(small_network())
    graph.backward({"logits": "logits"}, "x")
    model = graph.to_model({"r": "r"})
    assert operators(model) == {"Conv": 1, "Relu": 1}
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]


def test_constants_are_stored_once_and_by_type() -> None:
    graph = Graph.from_model(one_node("Neg", [4]))
    one = graph.constant(np.float32(1))
    assert graph.constant(np.array(1, np.float32)) == one
    others = {
        graph.constant(value) for value in (np.float64(1), np.float32(-1), np.ones(1, np.float32))
    }
    assert len(others | {one}) == 4
    np.testing.assert_array_equal(graph.value(one), 1)


def test_constant_nodes_become_initializers() -> None:
    nodes = [
        helper.make_node("Constant", [], ["i"], value_ints=[1]),
        helper.make_node("Constant", [], ["f"], value_float=2.5),
        helper.make_node("Constant", [], ["fs"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["n"], value_int=3),
        helper.make_node(
            "Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.FLOAT, [1], [4.0])
        ),
        helper.make_node("Unsqueeze", ["x", "i"], ["u"]),
        helper.make_node("Mul", ["u", "f"], ["y"]),
    ]
    graph = Graph.from_model(model_of(nodes, {"x": ["N", 2]}, ["y"], {}))
    assert [node.op_type for node in graph.nodes] == ["Unsqueeze", "Mul"]
    stated = {"i": [1], "f": 2.5, "fs": [1, 2], "n": 3, "t": [4]}
    for name, value in stated.items():
        np.testing.assert_array_equal(graph.value(name), value)
    types = {name: str(np.asarray(graph.value(name)).dtype) for name in stated}
    assert types == {"i": "int64", "f": "float32", "fs": "float32", "n": "int64", "t": "float32"}


def test_names_do_not_collide_with_those_of_the_network() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["Mul_b1"]),
        helper.make_node("Exp", ["Mul_b1"], ["y"]),
    ]
    graph = Graph.from_model(model_of(nodes, {"x": ["N", 2]}, ["y"], {}))
    dx = graph.backward({"y": "y"}, "x")
    (value,) = run(graph.to_model({"dx": dx}), {"x": normal(2, 2)})
    np.testing.assert_allclose(value, -(np.exp(-normal(2, 2)) ** 2), rtol=1e-5)


def test_rename() -> None:
    graph = Graph.from_model(one_node("Neg", [4]))
    twice = graph.add("Add", ["y", "y"])
    graph.rename("y", "negated")
    assert graph.add("Mul", ["negated", "negated"]) != twice
    assert graph.shape("negated") == ("N", 4)
    (value,) = run(graph.to_model({"out": twice}), {"x": normal(2, 4)})
    np.testing.assert_allclose(value, -2 * normal(2, 4))
    with pytest.raises(ValueError, match="no node of the graph makes"):
        graph.rename("x", "other")
    with pytest.raises(ValueError, match="taken"):
        graph.rename("negated", "x")


def conditional_network() -> onnx.ModelProto:
    """y = exp(x) if the sum of x is positive else -h, h = tanh(x) read from inside the branch."""
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    positive = helper.make_graph([helper.make_node("Exp", ["h"], ["b"])], "then", [], [y])
    negative = helper.make_graph([helper.make_node("Neg", ["h"], ["b"])], "else", [], [y])
    nodes = [
        helper.make_node("Tanh", ["x"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=positive, else_branch=negative),
    ]
    return model_of(nodes, {"x": ["N", 4]}, ["y"], {"zero": np.float32(0)})


def test_replay_follows_what_subgraphs_read_from_outside() -> None:
    graph = Graph.from_model(conditional_network())
    (y,) = graph.replay({"x": graph.add("Neg", ["x"])}, ["y"])
    (value, plain) = run(graph.to_model({"y": y, "plain": "y"}), {"x": np.abs(normal(2, 4))})
    np.testing.assert_allclose(value, np.tanh(np.abs(normal(2, 4))), rtol=1e-5)
    np.testing.assert_allclose(plain, np.exp(np.tanh(np.abs(normal(2, 4)))), rtol=1e-5)


def test_a_gradient_through_a_subgraph_is_refused_not_lost() -> None:
    graph = Graph.from_model(conditional_network())
    with pytest.raises(UnsupportedOperator, match=r"If.*'y'"):
        graph.backward({"y": "y"}, "x")


def test_a_refusal_in_the_middle_leaves_no_trace() -> None:
    """Exp is written before Pow refuses; afterwards types of new nodes are still inferred."""
    nodes = [
        helper.make_node("Pow", ["x", "x"], ["p"]),
        helper.make_node("Exp", ["p"], ["y"]),
    ]
    graph = Graph.from_model(model_of(nodes, {"x": ["N", 2]}, ["y"], {}))
    seed = graph.add("Tanh", ["y"])
    assert graph.shape(seed) == ("N", 2)
    before = (len(graph.nodes), set(graph.initializers))
    with pytest.raises(UnsupportedOperator, match="Pow"):
        graph.backward({"y": seed}, "x")
    assert (len(graph.nodes), set(graph.initializers)) == before
    assert graph.shape(graph.add("Mul", [seed, "y"])) == ("N", 2)
    graph.to_model({"dp": graph.backward({"y": seed}, "p")})


def test_a_second_output_on_the_path_is_refused_not_lost() -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "s"], ["n", "m"]),
        helper.make_node("Add", ["n", "m"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 4]}, ["y"], {"s": normal(4)})
    with pytest.raises(UnsupportedOperator, match=r"LayerNormalization.*'n'.*first output"):
        Graph.from_model(model).backward({"y": "y"}, "x")


def test_replay_of_another_batch_does_not_claim_the_old_one() -> None:
    """Two passes stacked along the batch: the clones' first dimension is not N."""
    graph = Graph.from_model(small_network())
    stacked = graph.add("Concat", ["x", graph.add("Neg", ["x"])], axis=0)
    (logits,) = graph.replay({"x": stacked}, ["logits"])
    model = graph.to_model({"twice": logits, "once": "logits"})
    stated = {o.name: o.type.tensor_type.shape.dim[0].dim_param for o in model.graph.output}
    assert stated["once"] == "N"
    assert stated["twice"] != "N"
    x = normal(3, 3, 6, 6)
    twice, once = run(model, {"x": x})
    np.testing.assert_allclose(twice[:3], once, rtol=1e-5)
    assert twice.shape == (6, 5)


def test_unknown_lowerings_are_refused() -> None:
    graph = Graph.from_model(one_node("Neg", [4]))
    with pytest.raises(ValueError, match="'gpu'; choose one of cpu, cuda"):
        graph.backward({"y": "y"}, "x", "gpu")  # pyright: ignore[reportArgumentType]


def test_unknown_tensors_are_named() -> None:
    graph = Graph.from_model(one_node("Neg", [4]))
    for act in (
        lambda: graph.backward({"nowhere": "y"}, "x"),
        lambda: graph.backward({"y": "nowhere"}, "x"),
        lambda: graph.backward({"y": "y"}, "nowhere"),
        lambda: graph.replay({"nowhere": "x"}, ["y"]),
        lambda: graph.replay({"x": "y"}, ["nowhere"]),
        lambda: graph.add("Neg", ["nowhere"]),
        lambda: graph.to_model({"out": "nowhere"}),
    ):
        with pytest.raises(ValueError, match="'nowhere'"):
            act()
    with pytest.raises(ValueError, match="at least one"):
        graph.backward({}, "x")


def test_a_gradient_that_must_be_zero_is_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = Graph.from_model(model_of(nodes, {"x": ["N", 2]}, ["y"], {}))
    with pytest.raises(ValueError, match=r"\['y'\] by 'x' is zero"):
        graph.backward({"y": "y"}, "x")


@pytest.mark.parametrize("opset", [18, 22, 24])
def test_opsets(opset: int) -> None:
    """Older and newer graphs than the exporter's default give the same gradient."""
    gradients = []
    for version in (opset, 20):
        graph = Graph.from_model(small_network(version))
        model = graph.to_model({"dx": graph.backward({"logits": "logits"}, "x")})
        assert [o.version for o in model.opset_import] == [version]
        gradients.append(run(model, {"x": normal(2, 3, 6, 6)})[0])
    np.testing.assert_array_equal(*gradients)


def test_old_opsets_are_refused() -> None:
    model = one_node("Neg", [4], opset=17)
    with pytest.raises(ValueError, match=r"opset 17.*18 or later"):
        Graph.from_model(model)


def test_functions_of_a_model_are_inlined() -> None:
    model = one_node("Neg", [4])
    body = [helper.make_node("Exp", ["a"], ["e"]), helper.make_node("Neg", ["e"], ["b"])]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("own", "NegExp", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[0].CopyFrom(helper.make_node("NegExp", ["x"], ["y"], domain="own"))
    graph = Graph.from_model(model)
    dx = graph.backward({"y": "y"}, "x")
    (value,) = run(graph.to_model({"dx": dx}), {"x": normal(2, 4)})
    np.testing.assert_allclose(value, np.exp(normal(2, 4)) ** 2, rtol=1e-5)
