"""Classifier, one graph detector, the ensembles over its scores: a graph beside forward.onnx."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from service.bundle import FORWARD
from training.classifier import Classifier
from training.combiners import Ensemble
from training.graph_detectors import GraphDetector
from training.scorer import SCORE_PREFIX, ScoreDescription, Scorer, describe_ensembles


@dataclass(frozen=True)
class Scorers:
    """Everything a bundle scores with: the forward graph, and the graphs beside it."""

    forward: Scorer
    sides: tuple["SideScorer", ...] = ()

    @property
    def classifier(self) -> Classifier:
        return self.forward.classifier

    def describe(self) -> dict[str, ScoreDescription]:
        """Score name -> description, the forward graph's first."""
        found = self.forward.describe()
        for side in self.sides:
            found |= side.describe()
        return found

    def graph_of(self) -> dict[str, str]:
        """Score name -> file name of the graph that gives it."""
        graphs = dict.fromkeys(self.forward.describe(), FORWARD)
        for side in self.sides:
            graphs |= dict.fromkeys(side.describe(), side.detector.graph)
        return graphs

    def remarks(self) -> list[str]:
        """What the detectors say of their fits."""
        return [line for part in (self.forward, *self.sides) for line in part.remarks()]

    def cpu(self) -> "Scorers":
        return Scorers(self.forward.cpu(), tuple(side.cpu() for side in self.sides))


class SideScorer(nn.Module):
    """Raw inputs, first dimension B -> {"score/<name>": (B,), ...}."""

    classifier: Classifier
    detector: GraphDetector

    def __init__(
        self, classifier: Classifier, detector: GraphDetector, ensembles: Sequence[Ensemble] = ()
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.detector = detector
        self.ensembles = nn.ModuleList(ensembles)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        scores = self.combine(self.detector(self.classifier, inputs))
        return {SCORE_PREFIX + name: score for name, score in scores.items()}

    def combine(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """The detector's scores and those of the ensembles over them."""
        scores = dict(scores)
        for ensemble in self.ensembles:
            assert isinstance(ensemble, Ensemble)  # noqa: S101
            scores[ensemble.name] = ensemble(scores)
        return scores

    def describe(self) -> dict[str, ScoreDescription]:
        """Score name -> description, in the graph's order."""
        detector = self.detector
        description = ScoreDescription(
            detector.cost, detector.reference, detector.summary, detector.hyperparameters()
        )
        found = dict.fromkeys(detector(self.classifier, self.classifier.example()), description)
        return describe_ensembles(found, self.ensembles)

    def remarks(self) -> list[str]:
        return list(self.detector.remarks())
