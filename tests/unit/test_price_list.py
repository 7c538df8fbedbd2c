"""The price list: how it is measured, what is cut out of the graph, what the page says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.price_list import DOCS, PAGE, read_all
from benchmarks.prices.goals import Goal
from benchmarks.prices.graphs import (
    ALL_SCORES,
    BANKLESS_SCORES,
    WITHOUT_BANKS,
    PricedGraph,
    bundle_bytes,
    write_priced_graphs,
)
from benchmarks.prices.memory import resident_bytes
from benchmarks.prices.records import PriceList
from benchmarks.prices.report import page
from benchmarks.prices.workload import Workload, drawn_workload
from training.config import CombinerConfig, DetectorConfig, load_config
from training.evaluation.timing import Limits, Ratio, compare, median_interval
from training.export import open_network

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
LISTS = read_all()
BANK_ROWS = 2000
FEATURES = 128  # of LeNet
ENSEMBLES = {
    "plain_pair": ("msp", "mahalanobis"),
    "bank_pair": ("kde", "msp"),
    "nested": ("bank_pair", "mahalanobis"),
}


class FakeMachine:
    """A clock that only work moves, and that moves faster and faster."""

    def __init__(self, slowdown: float = 1.0) -> None:
        self.seconds = 0.0
        self.pace = 1.0
        self.slowdown = slowdown
        self.log: list[str] = []

    def clock(self) -> float:
        return self.seconds

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.seconds += seconds * self.pace
            self.pace *= self.slowdown

        return call


# n, rank of the lower end: Conover, Practical Nonparametric Statistics, binomial(n, 1/2) at 95 %
@pytest.mark.parametrize(("count", "rank"), [(6, 1), (10, 2), (20, 6), (30, 10), (100, 40)])
def test_the_interval_of_a_median_is_the_one_of_the_tables(count: int, rank: int) -> None:
    ratio = median_interval(list(np.random.default_rng(0).permutation(count) + 1.0))
    assert (ratio.low, ratio.high) == (rank, count + 1 - rank)
    assert ratio.median == (count + 1) / 2
    assert ratio.pairs == count


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="5 values"):
        median_interval([1.0] * 5)
    with pytest.raises(ValueError, match="rounds is 5"):
        Limits(seconds=0, rounds=5)


def test_a_machine_that_slows_down_hardly_moves_a_ratio() -> None:
    machine = FakeMachine(slowdown=1.002)
    plain, dear = machine.work("plain", 0.1), machine.work("dear", 0.25)
    found = compare(plain, {"dear": dear}, Limits(seconds=0, rounds=40), clock=machine.clock)
    assert machine.pace > 1.15
    assert found["dear"].ratio.median == pytest.approx(2.5, rel=2e-3)
    assert found["dear"].ratio.low <= 2.5 <= found["dear"].ratio.high


def test_time_beyond_the_plain_graph() -> None:
    machine = FakeMachine()
    plain, dear = machine.work("plain", 0.1), machine.work("dear", 0.25)
    timed = compare(plain, {"dear": dear}, Limits(seconds=0), clock=machine.clock)["dear"]
    assert timed.seconds == pytest.approx(0.25)
    assert timed.added == pytest.approx(0.15)


def test_each_of_a_pair_comes_first_in_turn_and_often_means_thrice() -> None:
    machine = FakeMachine()
    calls = {name: machine.work(name, 0.1) for name in ("usual", "often")}
    found = compare(
        machine.work("plain", 0.1),
        calls,
        Limits(seconds=0, rounds=8, tolerance=-1.0),  # never sure
        often={"often"},
        clock=machine.clock,
    )
    assert found["often"].ratio.pairs == 3 * found["usual"].ratio.pairs == 24
    timed = machine.log[-2 * 32 :]
    pairs = [tuple(timed[i : i + 2]) for i in range(0, len(timed), 2)]
    for name in calls:
        assert pairs.count(("plain", name)) == pairs.count((name, "plain"))


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(1.0, 1.1, "met"), (1.05, 1.2, "open"), (1.11, 1.2, "missed")]
)
def test_a_goal_is_met_only_by_the_whole_interval(low: float, high: float, verdict: str) -> None:
    goal = Goal("a goal", "a_graph", batch=1, limit=1.1)
    assert goal.verdict(Ratio((low + high) / 2, low, high, 20)) == verdict


@dataclass(frozen=True)
class Priced:
    workload: Workload
    graphs: dict[str, PricedGraph]
    folder: Path


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Priced:
    """LeNet with a few detectors and ensembles, cut up."""
    folder = tmp_path_factory.mktemp("priced")
    names = ("msp", "mahalanobis", "knn", "kde", "odin", "deep_ensemble")
    config = load_config(CONFIGS / "fashion_mnist.toml").model_copy(
        update={
            "detectors": tuple(DetectorConfig(name=name) for name in names),
            "combiners": tuple(
                CombinerConfig(name=name, members=members) for name, members in ENSEMBLES.items()
            ),
        }
    )
    workload = drawn_workload(config, BANK_ROWS)
    graphs = {graph.name: graph for graph in write_priced_graphs(workload, folder)}
    return Priced(workload, graphs, folder)


def test_what_is_priced_and_what_is_not(priced: Priced) -> None:
    kinds = {name: graph.kind for name, graph in priced.graphs.items()}
    alone = [name for name, kind in kinds.items() if kind == "detector"]
    assert alone == ["msp", "mahalanobis", "knn", "kde", *ENSEMBLES]
    assert [name for name, kind in kinds.items() if kind == "own_graph"] == ["odin"]
    assert list(priced.workload.left_out) == ["deep_ensemble"]
    assert next(iter(kinds.items())) == ("plain", "plain")


def test_without_banks_means_without_those_of_members_too(priced: Priced) -> None:
    layers = {f"score/mahalanobis{layer}" for layer in ("_conv1", "_conv2", "", "_logits")}
    detectors = {"logits", "score/msp", *layers}
    assert set(priced.graphs[WITHOUT_BANKS].outputs) == detectors
    bankless = detectors | {"score/plain_pair"}
    assert set(priced.graphs[BANKLESS_SCORES].outputs) == bankless
    banked = {f"score/{name}" for name in ("knn", "kde", "bank_pair", "nested")}
    assert set(priced.graphs[ALL_SCORES].outputs) == bankless | banked


def test_a_cut_graph_gives_what_the_whole_one_gives(priced: Priced) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)
    whole = open_network(priced.folder / "forward.onnx", threads=1)(pixels)
    for graph in priced.graphs.values():
        if graph.kind == "own_graph":
            continue
        found = open_network(graph.path, threads=1)(pixels)
        assert tuple(found) == graph.outputs
        for name, values in found.items():
            np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=1e-4)


def test_bundle_bytes_count_shared_weights_once(priced: Priced) -> None:
    plain, graphs = priced.graphs["plain"], priced.graphs
    weights = 4 * 1_199_882  # float32, arXiv:2012.12682
    assert plain.path.stat().st_size > weights
    assert 0 < bundle_bytes(plain, graphs["odin"]) < weights / 4
    bank = 4 * BANK_ROWS * FEATURES
    assert bank <= bundle_bytes(plain, graphs["knn"]) < 1.1 * bank + 50_000
    assert bundle_bytes(plain, graphs["plain_again"]) < 50_000


def test_memory_is_at_least_that_of_the_constants(tmp_path: Path) -> None:
    bank = np.random.default_rng(0).random((48, 200_000), np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["rows"]),
        helper.make_node("MatMul", ["rows", "bank"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axes"], ["score/bank"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "bank",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("score/bank", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(bank, "bank"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    path = tmp_path / "bank.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, path)
    found = resident_bytes(path, ["score/bank"], (4, 4, 3), [32, 1])
    assert list(found) == [1, 32]
    assert bank.nbytes <= found[1] < 5 * bank.nbytes
    assert found[32] >= found[1]


@pytest.mark.parametrize("listed", LISTS, ids=lambda listed: listed.config)
def test_a_record_says_where_it_comes_from(listed: PriceList) -> None:
    assert listed.threads == 1
    assert listed.batches == [1, 8, 32]
    assert {"commit", "machine"} <= set(listed.environment)
    assert (DOCS / listed.picture).exists()


def test_the_page_is_that_of_the_records() -> None:
    assert page(LISTS) == PAGE.read_text(encoding="utf-8"), "run python -m benchmarks.price_list"
