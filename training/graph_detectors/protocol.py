"""Detectors whose scores cost several passes: each is a graph of its own, run on demand.

Scores: higher = more OOD, without exception.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from service.bundle import Cost
from training.classifier import Classifier
from training.data import InputSet
from training.detectors import Detector, FitError

D = TypeVar("D", bound=Detector)


@dataclass(frozen=True)
class FitContext:
    """What a graph detector may look at.

    `held_out`: dev-ID inputs, as the classifier reads them; `members`: further classifiers,
    trained alike from other seeds; `train`: train-ID, for what has weights of its own.
    """

    classifier: Classifier
    detectors: Sequence[Detector]  # fitted
    held_out: Tensor
    members: Sequence[Classifier] = ()
    train: InputSet | None = None

    def detector(self, kind: type[D], needed_by: str) -> D:
        """The fitted detector of that class; FitError if the run has none."""
        for detector in self.detectors:
            if isinstance(detector, kind):
                return detector
        raise FitError(
            f"{needed_by} builds on the detector {kind.__name__.lower()}; add it to the config"
        )


class GraphDetector(nn.Module):
    """fit(context) once, then forward(classifier, inputs) -> score name -> (B,), float32.

    Fitted state is buffers only, so `state_dict` holds all of it and `restore` brings it back.
    """

    cost: ClassVar[Cost]
    reference: ClassVar[str]  # arXiv number
    summary: ClassVar[str]  # one sentence for the report: what it measures, what it costs
    builds_on: ClassVar[type[Detector] | None] = None  # whose fitted statistics it takes over

    def __init__(self, name: str, graph: str) -> None:
        super().__init__()
        self.name = name
        self.graph = graph  # file name in the bundle

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        """What follows the name in the names of the scores, in their order; known before a fit."""
        return ("",)

    def check_network(self, classifier: Classifier, inputs: Tensor) -> None:
        """FitError where an untrained network shows that it cannot support the detector."""

    def fit(self, context: FitContext) -> None:
        """Raises FitError where the network or the data cannot support the detector."""
        raise NotImplementedError

    def hyperparameters(self) -> dict[str, float | int | str]:
        """What the manifest records."""
        return {}

    def remarks(self) -> tuple[str, ...]:
        """Sentences for the report where an assumption of the detector hardly holds."""
        return ()

    def forward(self, classifier: Classifier, inputs: Tensor) -> dict[str, Tensor]:
        """Raw inputs, first dimension B -> score name -> (B,), float32."""
        raise NotImplementedError

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the buffers of another instance's `state_dict`."""
        for name, value in state.items():
            self.register_buffer(name, value)
