"""The graphs that are priced: the classifier alone, with each detector, with groups of them.

The forward graph with every detector is exported once; a graph with fewer is what is left of it
when only their scores are asked for.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from torch import Tensor, nn

from benchmarks.prices.workload import ForwardPart, Workload
from service.bundle import Cost, ImageInput
from training.classifier import Classifier
from training.export import export_graph
from training.export.backward import Graph
from training.export.gradient_graph import export_gradient_graph
from training.export.shared_weights import share_weights
from training.graph_detectors import GradientDetector
from training.scorer import LOGITS, SCORE_PREFIX
from training.side_scorer import SideScorer

# detector: in the forward graph; own_graph: beside it; together: several in the forward graph;
# control: the plain classifier again, cut out of the forward graph
Kind = Literal["plain", "control", "detector", "together", "own_graph"]

WITHOUT_BANKS = "all_without_banks"
BANKLESS_SCORES = "all_without_banks_and_ensembles"
ALL_SCORES = "all_scores"
_BANKLESS_COSTS: tuple[Cost, ...] = ("logits", "features", "layers")


@dataclass(frozen=True)
class PricedGraph:
    """`outputs`: everything the graph gives; `cost`: None for several detectors."""

    name: str
    kind: Kind
    cost: Cost | None
    path: Path
    outputs: tuple[str, ...]

    @property
    def scores(self) -> int:
        return sum(output.startswith(SCORE_PREFIX) for output in self.outputs)


class _Plain(nn.Module):
    """The network alone: pixels -> logits."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {LOGITS: self.classifier(pixels).logits}


def write_priced_graphs(workload: Workload, folder: Path) -> list[PricedGraph]:
    """Every graph as one self-contained file of the folder, the plain one first."""
    scorers = workload.scorers
    spec = workload.spec
    plain = folder / "plain.onnx"
    export_graph(_Plain(scorers.classifier), spec, plain)
    graphs = [PricedGraph("plain", "plain", None, plain, (LOGITS,))]
    forward = folder / "forward.onnx"
    export_graph(scorers.forward, spec, forward)
    whole = Graph.from_model(onnx.load(forward))

    def cut(name: str, kind: Kind, cost: Cost | None, outputs: Iterable[str]) -> None:
        path = folder / f"{kind}-{name}.onnx"
        wanted = (LOGITS, *outputs)
        onnx.save(whole.to_model({output: output for output in wanted}), path)
        graphs.append(PricedGraph(name, kind, cost, path, wanted))

    def group(name: str, chosen: Callable[[ForwardPart], bool]) -> None:
        outputs = [output for part in parts if chosen(part) for output in part.outputs]
        if outputs:
            cut(name, "together", None, outputs)

    parts = workload.parts()
    cut("plain_again", "control", None, ())
    for part in parts:
        cut(part.name, "detector", part.cost, part.outputs)
    for cost in _BANKLESS_COSTS:
        group(f"all_{cost}", lambda part, cost=cost: part.cost == cost and not part.ensemble)
    group(WITHOUT_BANKS, lambda part: not part.bank and not part.ensemble)
    group(BANKLESS_SCORES, lambda part: not part.bank)
    group(ALL_SCORES, lambda part: True)
    for side in scorers.sides:
        graphs.append(_own_graph(side, spec, folder))
    return graphs


def _own_graph(side: SideScorer, spec: ImageInput, folder: Path) -> PricedGraph:
    detector = side.detector
    path = folder / detector.graph
    if isinstance(detector, GradientDetector):
        export_gradient_graph(side, spec, path)
    else:
        export_graph(side, spec, path)
    names = [output.name for output in onnx.load(path).graph.output]
    return PricedGraph(detector.name, "own_graph", detector.cost, path, tuple(names))


def bundle_bytes(plain: PricedGraph, graph: PricedGraph) -> int:
    """What the graph adds to a bundle that would hold only the plain one.

    A forward graph takes the plain one's place; a graph of its own lies beside it, and what both
    read is stored once.
    """
    together = [plain, graph] if graph.kind == "own_graph" else [graph]
    return stored_bytes(g.path for g in together) - stored_bytes([plain.path])


def stored_bytes(paths: Iterable[Path]) -> int:
    """Of these graphs in one bundle, weights that several read counted once."""
    with tempfile.TemporaryDirectory() as temporary:
        copies = [Path(shutil.copy(path, temporary)) for path in paths]
        weights = share_weights(copies)
        return sum(path.stat().st_size for path in (*copies, weights))
