"""Classifier + detectors + ensembles as one module: what becomes forward.onnx."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.bundle import Cost
from training.classifier import Classifier
from training.combiners import Ensemble
from training.detectors import Detector
from training.outputs import Outputs

LOGITS = "logits"
SCORE_PREFIX = "score/"


# Cheapest first.
COSTS: tuple[Cost, ...] = ("logits", "features", "bank", "layers", "gradient", "multi_pass")


@dataclass(frozen=True)
class ScoreDescription:
    """What the manifest says of one score besides its threshold."""

    cost: Cost
    reference: str
    summary: str
    hyperparameters: dict[str, float | int | str]


class Scorer(nn.Module):
    """Raw inputs, first dimension B -> {"logits": (B, K), "score/<name>": (B,), ...}.

    Ensembles come last and may read any score made before them, other ensembles included.
    """

    classifier: Classifier

    def __init__(
        self,
        classifier: Classifier,
        detectors: Sequence[Detector],
        ensembles: Sequence[Ensemble] = (),
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.detectors = nn.ModuleList(detectors)
        self.ensembles = nn.ModuleList(ensembles)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        outputs = self.classifier(inputs)
        return {LOGITS: outputs.logits} | self.scores(outputs)

    def scores(self, outputs: Outputs) -> dict[str, Tensor]:
        """What the network gave -> {"score/<name>": (B,), ...}."""
        scores: dict[str, Tensor] = {}
        for detector in self.detectors:
            scores.update(detector(outputs))
        for ensemble in self.ensembles:
            assert isinstance(ensemble, Ensemble)  # noqa: S101
            scores[ensemble.name] = ensemble(scores)
        return {SCORE_PREFIX + n: s for n, s in scores.items()}

    def remarks(self) -> list[str]:
        """What the detectors say of their fits."""
        found: list[str] = []
        for detector in self.detectors:
            assert isinstance(detector, Detector)  # noqa: S101
            found.extend(detector.remarks())
        return found

    @torch.no_grad()
    def describe(self) -> dict[str, ScoreDescription]:
        """Score name -> description, in the graph's order."""
        outputs = self.classifier(self.classifier.example())
        found: dict[str, ScoreDescription] = {}
        for detector in self.detectors:
            assert isinstance(detector, Detector)  # noqa: S101
            description = ScoreDescription(
                detector.cost, detector.reference, detector.summary, detector.hyperparameters()
            )
            found.update(dict.fromkeys(detector(outputs), description))
        return describe_ensembles(found, self.ensembles)


def describe_ensembles(
    members: dict[str, ScoreDescription], ensembles: Iterable[nn.Module]
) -> dict[str, ScoreDescription]:
    """`members` and, after them, the ensembles; each costs what its dearest member costs."""
    found = dict(members)
    for ensemble in ensembles:
        assert isinstance(ensemble, Ensemble)  # noqa: S101
        parts = [found[member] for member in ensemble.members]
        cost = COSTS[max(COSTS.index(part.cost) for part in parts)]
        sources = sorted({part.reference for part in parts})
        found[ensemble.name] = ScoreDescription(
            cost, ", ".join(sources), ensemble.summary(), ensemble.hyperparameters()
        )
    return found
