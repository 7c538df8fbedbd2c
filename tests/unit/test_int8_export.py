"""The int8 variant: what is quantised, what stays float, its own calibration, its price."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.metrics import roc_auc_score
from toy import digits, write_digits

from service.bundle import (
    FORWARD,
    FORWARD_INT8,
    GOLDEN_INT8,
    BundleRef,
    Manifest,
    VariantSpec,
    check_golden,
    read_calibration,
    read_golden,
    read_manifest,
    threshold_at,
    verify_files,
)
from service.graphs import SessionOptions
from service.loading import check_every_graph, open_bundle
from training.config import load_config
from training.data import Roles, load_roles
from training.evaluation.report import read_report
from training.export import int8_price, open_network, write_int8_graph
from training.export.int8 import NothingToQuantise, quantise, quantised_nodes
from training.fitting import Network, score_set
from training.pipeline import run
from training.restore import load_scorers

CONFIG = """
name = "digits"
description = "scikit-learn's digits"
backbone = "lenet"
golden_id_count = 3
primary = "combined"
int8 = true
[input]
height = 28
width = 28
channels = 1
mean = [0.3]
std = [0.35]
[optimiser]
name = "adadelta"
lr = 1.0
epochs = 2
batch_size = 32
[data]
dev_count = 100
cal_count = 200
train = [{ source = "npz", path = "FOLDER/train.npz" }]
test = [{ source = "npz", path = "FOLDER/test.npz" }]
[data.test_ood]
noise = [{ source = "noise", kind = "uniform", count = 150 }]
[[detectors]]
name = "msp"
[[detectors]]
name = "mahalanobis"
[[combiners]]
name = "combined"
members = ["msp", "mahalanobis_conv2", "mahalanobis"]
"""
FORWARD_SCORES = {
    *("msp", "mahalanobis_conv1", "mahalanobis_conv2", "mahalanobis"),
    *("mahalanobis_logits", "combined"),
}


@dataclass(frozen=True)
class Published:
    ref: BundleRef
    manifest: Manifest
    roles: Roles

    @property
    def variant(self) -> VariantSpec:
        (variant,) = self.manifest.variants
        return variant

    def network(self, file: str) -> Network:
        return open_network(self.ref.path / file, threads=1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    path = folder / "digits.toml"
    path.write_text(CONFIG.replace("FOLDER", str(folder)))
    config = load_config(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_price, "_ROUND_SECONDS", 0.005)
        ref = run(config, folder / "models", folder / "runs")
    roles = load_roles(config.data, config.form, config.seed)
    return Published(ref, read_manifest(ref.path), roles)


def test_the_bundle_is_valid_and_every_graph_of_it_opens(published: Published) -> None:
    verify_files(published.ref.path, published.manifest)
    assert set(published.variant.thresholds) == FORWARD_SCORES
    check_every_graph(published.ref, SessionOptions())
    load_scorers(published.ref.path)


def test_the_service_answers_with_the_variant_where_it_is_chosen(published: Published) -> None:
    images = digits()[0][1300:1310]
    expected = published.network(FORWARD_INT8)(images)
    bundle = open_bundle(published.ref, SessionOptions(), int8=True)
    assert bundle.variant == "int8"
    served = bundle.session(FORWARD).run(images, list(expected))
    for name, values in expected.items():
        np.testing.assert_allclose(served[name], values, rtol=1e-5, atol=1e-5)
    for name, threshold in published.variant.thresholds.items():
        assert bundle.manifest.detector(name).threshold == threshold
    float_bundle = open_bundle(published.ref, SessionOptions())
    assert float_bundle.variant == "fp32"
    assert float_bundle.manifest.detector("msp").threshold != published.variant.thresholds["msp"]


def test_outputs_are_those_of_the_forward_graph(published: Published) -> None:
    def signature(file: str) -> list[tuple[str, int, list[int | str]]]:
        graph = onnx.load(published.ref.path / file, load_external_data=False).graph
        return [
            (
                value.name,
                value.type.tensor_type.elem_type,
                [d.dim_value or "N" for d in value.type.tensor_type.shape.dim],
            )
            for value in (*graph.input, *graph.output)
        ]

    assert signature(FORWARD_INT8) == signature(FORWARD)


def test_the_trunk_is_int8_and_the_scores_are_float(published: Published) -> None:
    graph = onnx.load(published.ref.path / FORWARD_INT8).graph
    made = {output: node for node in graph.node for output in node.output}
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}

    def upstream(tensor: str) -> set[str]:
        node = made.get(tensor)
        if node is None:
            return set()
        return {node.output[0]}.union(*(upstream(name) for name in node.input))

    trunk = upstream("logits")
    quantised = [
        node
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and all(made[name].op_type == "DequantizeLinear" for name in node.input[:2] if name in made)
        and node.input[1] in made
        and made[node.input[1]].input[0] in constants
    ]
    assert [node.op_type for node in quantised] == ["Conv", "Conv", "Gemm"]
    for node in quantised:
        assert node.output[0] in trunk
        levels, scale, _ = (constants[name] for name in made[node.input[1]].input)
        assert levels.dtype == np.int8
        # seven bits, or processors without VNNI overflow
        assert 32 < np.abs(levels.astype(int)).max() <= 64
        assert scale.shape == (len(levels),)  # one a channel
        assert len(np.unique(scale)) > 1
    assert made["logits"].op_type == "Gemm"
    assert constants[made["logits"].input[1]].dtype == np.float32
    assert all(node.output[0] in trunk for node in graph.node if node.op_type == "QuantizeLinear")
    heads = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(heads) == 5  # whitening, one a layer; the members of the ensemble
    for node in heads:
        matrix = node.input[1]
        if matrix in made:  # stored the other way round
            assert made[matrix].op_type == "Transpose"
            matrix = made[matrix].input[0]
        assert constants[matrix].dtype == np.float32


def test_the_price_is_what_both_graphs_give_on_the_test_sets(published: Published) -> None:
    price = published.variant.price
    test, noise = published.roles.test_id, published.roles.test_ood["noise"]
    for place, file in enumerate((FORWARD, FORWARD_INT8)):
        network = published.network(file)
        on_id, on_noise = score_set(network, test), score_set(network, noise)
        accuracy = float((on_id.logits.argmax(1) == test.labels).mean())
        assert accuracy == pytest.approx((price.accuracy_fp32, price.accuracy)[place])
        truth = np.repeat([0, 1], [len(test), len(noise)])
        for name in FORWARD_SCORES:
            both = np.concatenate([on_id.scores[name], on_noise.scores[name]])
            expected = roc_auc_score(truth, both)
            assert price.auroc["noise"][name][place] == pytest.approx(expected)
    assert set(price.auroc) == {"noise"}  # the control is no OOD set
    assert price.accuracy_fp32 > 0.8  # two epochs
    assert price.accuracy > price.accuracy_fp32 - 0.02
    assert set(price.speed_ratio) == {"1", "8", "32"}
    assert "1 thread, onnxruntime" in price.measured_on


def test_calibration_scores_and_thresholds_are_its_own(published: Published) -> None:
    own = read_calibration(published.ref.path, published.manifest, published.variant)
    other = read_calibration(published.ref.path, published.manifest)
    scored = score_set(published.network(FORWARD_INT8), published.roles.cal_id).scores
    for name, scores in own.items():
        np.testing.assert_allclose(scores, np.sort(scored[name]), rtol=1e-5, atol=1e-5)
        assert published.variant.thresholds[name] == threshold_at(scores, 0.95)
        assert not np.array_equal(scores, other[name]), name


def test_golden_outputs_are_its_own_and_have_a_tolerance(published: Published) -> None:
    path = published.ref.path
    golden = read_golden(path, published.manifest, published.variant)
    outputs = published.network(FORWARD_INT8)(golden.inputs)
    assert set(golden.outputs) == set(outputs)
    tolerance = published.variant.golden_tolerance
    assert tolerance is not None
    assert 0.02 <= tolerance.relative <= 0.1
    check_golden(path / GOLDEN_INT8, golden, outputs, tolerance)
    float_outputs = published.network(FORWARD)(golden.inputs)
    assert not np.allclose(float_outputs["logits"], golden.outputs["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_score_depends_on_its_own_input_only(published: Published, batch: int) -> None:
    network, images = published.network(FORWARD_INT8), digits()[0][1300:1321]
    whole = network(images)
    parts = [network(images[start : start + batch]) for start in range(0, 21, batch)]
    for name, values in whole.items():
        actual = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(actual, values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_constants_are_stored_once_and_no_path_of_this_machine_is(published: Published) -> None:
    content = (published.ref.path / FORWARD_INT8).read_bytes()
    assert b".py" not in content
    assert b"/tmp" not in content
    assert str(published.ref.path.parents[2]).encode() not in content
    graph = onnx.load(published.ref.path / FORWARD_INT8, load_external_data=False).graph
    outside = {t.name for t in graph.initializer if t.external_data}
    large = {t.name for t in graph.initializer if np.prod(t.dims) * 4 >= 1024}
    floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    assert outside == large & floats - {n for n in floats if n.endswith("_scale")}
    assert outside
    weights = (published.ref.path / "weights.bin").stat().st_size
    assert weights < 4 * 1.3e6  # not the float trunk twice


def test_the_report_states_the_price(published: Published) -> None:
    remarks = read_report(published.ref.path / "report.json").remarks
    (remark,) = [line for line in remarks if line.startswith("The int8 variant")]
    price = published.variant.price
    assert f"accuracy {100 * price.accuracy:.2f} %" in remark
    assert f"(forward.onnx {100 * price.accuracy_fp32:.2f} %)" in remark
    changes = {name: int8 - fp32 for name, (fp32, int8) in price.auroc["noise"].items()}
    worst = max(changes, key=lambda name: abs(changes[name]))
    assert abs(changes[worst]) == 0 or f"most for {worst} on noise" in remark
    assert f"{price.speed_ratio['32']:.2f} at batch 32" in remark


# --- graphs made by hand


def small_graph(*, last_only: bool = False) -> ModelProto:
    """pixels -> conv -> ReLU -> product of two maps -> conv -> add -> product + bias = logits.

    Scores: the smallest value before the ReLU, and a product of the features.
    """
    rng = np.random.default_rng(0)
    constants = {
        "first": rng.normal(0, 0.02, (8, 1, 3, 3)),
        "second": rng.normal(0, 0.3, (8, 8, 3, 3)),
        "head": rng.normal(0, 0.3, (128, 3)),
        "pixel_head": rng.normal(0, 0.01, (16, 3)),
        "bias": rng.normal(0, 0.3, (3,)),
        "whitening": rng.normal(0, 0.3, (128, 128)),
    }
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    axes = numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    flat = numpy_helper.from_array(np.array([1]), "one")
    make = helper.make_node
    nodes = [
        make("Transpose", ["pixels"], ["planes"], "n0", perm=[0, 3, 1, 2]),
        make("Cast", ["planes"], ["images"], "n1", to=TensorProto.FLOAT),
        make("Conv", ["images", "first"], ["before"], "conv1", pads=[1, 1, 1, 1]),
        make("Relu", ["before"], ["after"], "relu1"),
        make("MatMul", ["after", "after"], ["squared"], "two_maps"),
        make("Conv", ["after", "second"], ["deep"], "conv2", pads=[1, 1, 1, 1]),
        make("Relu", ["deep"], ["rectified"], "relu2"),
        make("Add", ["rectified", "squared"], ["sum"], "residual"),
        make("Flatten", ["sum"], ["features"], "n2"),
        make("MatMul", ["features", "head"], ["product"], "classify"),
        make("Add", ["product", "bias"], ["logits"], "n3"),
        make("ReduceMin", ["before", "axes"], ["score/lowest"], "n4", keepdims=0),
        make("MatMul", ["features", "whitening"], ["white"], "whiten"),
        make("ReduceMax", ["white", "one"], ["score/white"], "n5", keepdims=0),
    ]
    if last_only:
        tail = make("Flatten", ["images"], ["row"], "n2")
        nodes = [
            *nodes[:2],
            tail,
            make("MatMul", ["row", "pixel_head"], ["product"], "classify"),
            nodes[10],
        ]
    used = {name for node in nodes for name in node.input}
    outputs = ["logits", *([] if last_only else ["score/lowest", "score/white"])]
    shapes = {"logits": ["N", 3]}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 4, 4, 1])],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes.get(n, ["N"]))
            for n in outputs
        ],
        [tensor for tensor in (*tensors, axes, flat) if tensor.name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)


def test_only_products_of_the_trunk_with_constant_weights_are_chosen() -> None:
    names = [node.name for node in quantised_nodes(small_graph().graph)]
    assert names == ["conv1", "conv2", "relu1", "relu2"]


def test_a_score_that_reads_below_the_relu_still_can(tmp_path: Path) -> None:
    onnx.save(small_graph(), tmp_path / FORWARD)
    graph = write_int8_graph(tmp_path, pictures(300), pictures(20))
    images = pictures(60)
    expected, found = open_network(tmp_path / FORWARD)(images), graph.network(images)
    assert (expected["score/lowest"] < 0).all()
    for name, values in expected.items():
        gap = np.abs(found[name] - values).max() / values.std()
        assert 0 < gap < 0.2, name


def test_a_network_with_nothing_to_quantise_is_refused() -> None:
    with pytest.raises(NothingToQuantise, match="int8 = false"):
        quantise(small_graph(last_only=True), pictures(20))


def test_speed_is_the_median_ratio_of_alternating_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def fake(path: Path, threads: int = 0) -> Network:
        assert threads == 1

        def network(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
            calls.append((path.name, len(pixels)))
            time.sleep(0.004 if path.name == FORWARD else 0.001)
            return {}

        return network

    monkeypatch.setattr(int8_price, "open_network", fake)
    monkeypatch.setattr(int8_price, "_ROUND_SECONDS", 0.001)
    ratios = int8_price.measure_speed(Path("folder"), pictures(5))
    assert list(ratios) == ["1", "8", "32"]
    assert all(1.5 < ratio < 6 for ratio in ratios.values())
    measured = [name for name, size in calls if size == 32][4:]
    assert measured == [FORWARD, FORWARD_INT8] * (len(measured) // 2)
