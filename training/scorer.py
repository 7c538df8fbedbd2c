"""Classifier + detectors + ensembles as one module: what becomes forward.onnx."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.bundle import Cost
from training.classifier import Classifier
from training.combiners import Ensemble
from training.detectors import Detector

LOGITS = "logits"
SCORE_PREFIX = "score/"


# Cheapest first: an ensemble costs what its dearest member costs.
_COSTS: tuple[Cost, ...] = ("logits", "features", "bank", "layers", "gradient", "multi_pass")


@dataclass(frozen=True)
class ScoreDescription:
    """What the manifest says of one score besides its threshold."""

    cost: Cost
    reference: str
    summary: str
    hyperparameters: dict[str, float | int | str]


class Scorer(nn.Module):
    """uint8 pixels (B, H, W, C) -> {"logits": (B, K), "score/<name>": (B,), ...}.

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

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.classifier(pixels)
        scores: dict[str, Tensor] = {}
        for detector in self.detectors:
            scores.update(detector(outputs))
        for ensemble in self.ensembles:
            assert isinstance(ensemble, Ensemble)  # noqa: S101
            scores[ensemble.name] = ensemble(scores)
        return {LOGITS: outputs.logits} | {SCORE_PREFIX + n: s for n, s in scores.items()}

    @torch.no_grad()
    def describe(self) -> dict[str, ScoreDescription]:
        """Score name -> description, in the graph's order."""
        spec = self.classifier.spec
        shape = (1, spec.height, spec.width, spec.channels)
        device = self.classifier.device
        outputs = self.classifier(torch.zeros(shape, dtype=torch.uint8, device=device))
        found: dict[str, ScoreDescription] = {}
        for detector in self.detectors:
            assert isinstance(detector, Detector)  # noqa: S101
            description = ScoreDescription(
                detector.cost, detector.reference, detector.summary, detector.hyperparameters()
            )
            found.update(dict.fromkeys(detector(outputs), description))
        for ensemble in self.ensembles:
            assert isinstance(ensemble, Ensemble)  # noqa: S101
            members = [found[member] for member in ensemble.members]
            cost = _COSTS[max(_COSTS.index(member.cost) for member in members)]
            sources = sorted({member.reference for member in members})
            found[ensemble.name] = ScoreDescription(
                cost, ", ".join(sources), ensemble.summary(), ensemble.hyperparameters()
            )
        return found
