"""A gradient detector -> one ONNX graph that computes its own input gradients.

torch writes what torch can write: the input's continuous form, first pass, the closed-form
derivatives and every score as functions of the first pass.  Then, on the graph itself and for
each sweep: backward nodes from the derivative to the continuous form, the step, and once more
the part of the first pass that leads to that sweep's score.  Shared work stays shared; each sweep
goes back only from its layer.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from service.bundle import TextInput
from training.classifier import InputSpec
from training.export.backward import Graph, Lowering
from training.export.graph import export_graph
from training.graph_detectors import GradientDetector
from training.graph_detectors.gradient import SMALLEST_SPREAD, Sweep
from training.scorer import SCORE_PREFIX
from training.side_scorer import SideScorer

_CONTINUOUS = "continuous"
_PRESENT = "present"
_POINT = "point/"
_COTANGENT = "cotangent/"
GRADIENT_PREFIX = "gradient/"


class _FirstPass(nn.Module):
    """Everything the backward and second passes are made of, as named outputs."""

    def __init__(self, scorer: SideScorer, detector: GradientDetector) -> None:
        super().__init__()
        self.scorer = scorer
        self.detector = detector

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        classifier = self.scorer.classifier
        continuous = classifier.continuous(inputs)
        outputs = classifier.from_continuous(continuous, inputs)
        found = {_CONTINUOUS: continuous}
        if isinstance(classifier.spec, TextInput):
            found[_PRESENT] = classifier.present(inputs)
        for name, (point, cotangent) in self.detector.cotangents(outputs).items():
            found[_POINT + name] = point
            found[_COTANGENT + name] = cotangent
        for name, score in self.scorer.combine(self.detector.scores(outputs)).items():
            found[SCORE_PREFIX + name] = score
        return found


def export_gradient_graph(
    scorer: SideScorer,
    spec: InputSpec,
    path: Path,
    lowering: Lowering = "cpu",
    *,
    gradients: bool = False,
) -> None:
    """Write the graph: raw inputs, first dimension N -> score/<name> (N,).

    `lowering`: how the backward nodes are written, for the processor that will run them.
    `gradients` adds outputs gradient/<sweep>, shaped as the continuous form, for tests.
    Raises UnsupportedOperator, naming an operator that has no backward rule.
    """
    detector = scorer.detector
    assert isinstance(detector, GradientDetector)  # noqa: S101
    export_graph(_FirstPass(scorer, detector), spec, path)
    graph = Graph.from_model(onnx.load(path))
    scores: dict[str, str] = {}
    extra: dict[str, str] = {}
    for sweep, step in zip(_sweeps(scorer, detector), detector.steps.tolist(), strict=True):
        seeds = {_POINT + sweep.name: _COTANGENT + sweep.name}
        gradient = graph.backward(seeds, _CONTINUOUS, lowering)
        direction = _direction(graph, gradient, detector)
        size = graph.constant(scorer.classifier.step(torch.tensor(step)).cpu().numpy())
        stepped = graph.add("Sub", [_CONTINUOUS, graph.add("Mul", [direction, size])])
        score = SCORE_PREFIX + sweep.score
        (scores[score],) = graph.replay({_CONTINUOUS: stepped}, [score])
        extra[GRADIENT_PREFIX + sweep.name] = gradient
    ensembles = [SCORE_PREFIX + str(ensemble.name) for ensemble in scorer.ensembles]
    if ensembles:
        scores |= dict(zip(ensembles, graph.replay(dict(scores), ensembles), strict=True))
    onnx.save(graph.to_model(scores | (extra if gradients else {})), path)


def _direction(graph: Graph, gradient: str, detector: GradientDetector) -> str:
    if detector.direction == "sign":
        positive = graph.add("GreaterOrEqual", [gradient, graph.constant(np.float32(0))])
        ones = graph.constant(np.float32(1)), graph.constant(np.float32(-1))
        return graph.add("Where", [positive, *ones])
    if graph.has(_PRESENT):
        return _standardised_text(graph, gradient)
    axes = graph.constant(np.array([1, 2, 3], np.int64))
    centred = graph.add("Sub", [gradient, graph.add("ReduceMean", [gradient, axes], keepdims=1)])
    squares = graph.add("Mul", [centred, centred])
    spread = graph.add("Sqrt", [graph.add("ReduceMean", [squares, axes], keepdims=1)])
    floor = graph.constant(np.float32(SMALLEST_SPREAD))
    return graph.add("Div", [centred, graph.add("Max", [spread, floor])])


def _standardised_text(graph: Graph, gradient: str) -> str:
    """As `standardised` of training.graph_detectors.gradient: (N, L, E), padding left out."""
    axes = graph.constant(np.array([1, 2], np.int64))

    def mean(name: str) -> str:
        return graph.add("Div", [graph.add("ReduceSum", [name, axes], keepdims=1), count])

    like = graph.add("Expand", [_PRESENT, graph.add("Shape", [_CONTINUOUS])])
    count = graph.add("ReduceSum", [like, axes], keepdims=1)
    deviation = graph.add("Sub", [gradient, mean(gradient)])
    centred = graph.add("Mul", [deviation, _PRESENT])
    spread = graph.add("Sqrt", [mean(graph.add("Mul", [centred, centred]))])
    floor = graph.constant(np.float32(SMALLEST_SPREAD))
    return graph.add("Div", [centred, graph.add("Max", [spread, floor])])


@torch.no_grad()
def _sweeps(scorer: SideScorer, detector: GradientDetector) -> tuple[Sweep, ...]:
    return detector.sweeps(scorer.classifier(scorer.classifier.example()))
