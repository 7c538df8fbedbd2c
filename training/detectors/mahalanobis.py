"""Mahalanobis distance to the nearest class, on every tapped layer.

Source: Lee et al. 2018, arXiv:1807.03888 (whose confidence is the negative).
Higher = more OOD.
"""

from collections.abc import Sequence

from torch import Tensor

from training.detectors.gaussian import (
    ClassMoments,
    check_regularisation,
    nearest_class_distance,
)
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs, layer_suffixes, pooled


class Mahalanobis(Detector):
    """`mahalanobis` reads the penultimate layer, `mahalanobis_<layer>` each other one.

    Maps are averaged over space.  The covariance is shared by the classes and shrunk by
    `shrinkage` towards a multiple of the identity, after every feature got at least
    `silent_floor` of the usual variance.  No input perturbation.
    """

    cost = "layers"
    reference = "arXiv:1807.03888"
    summary = (
        "Squared Mahalanobis distance of the layer's pooled features to the nearest class mean."
    )

    def __init__(self, shrinkage: float = 1e-3, silent_floor: float = 0.1) -> None:
        super().__init__()
        check_regularisation("mahalanobis", shrinkage, silent_floor)
        self.shrinkage = shrinkage
        self.silent_floor = silent_floor
        self._moments: dict[str, ClassMoments] = {}

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return layer_suffixes(layers, penultimate)

    def prepare(self, classifier: object) -> None:
        self._moments = {}

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        classes = outputs.logits.shape[1]
        for layer, tap in outputs.taps.items():
            self._moments.setdefault(layer, ClassMoments()).add(pooled(tap), labels, classes)

    def finish(self) -> None:
        if not self._moments:
            raise FitError("mahalanobis saw no training inputs")
        for layer, moments in self._moments.items():
            classes = moments.whitened(self.shrinkage, self.silent_floor)
            self.register_buffer(f"whitening_{layer}", classes.whitening)
            self.register_buffer(f"whitened_means_{layer}", classes.whitened_means)
        self._moments = {}

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"shrinkage": self.shrinkage, "silent_floor": self.silent_floor}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Each tap (B, C, H, W) or (B, D) -> squared distance to the nearest class (B,)."""
        scores = {}
        for layer, tap in outputs.taps.items():
            whitening = self.fitted(f"whitening_{layer}")
            means = self.fitted(f"whitened_means_{layer}")
            name = "mahalanobis" if layer == outputs.penultimate else f"mahalanobis_{layer}"
            scores[name] = nearest_class_distance(pooled(tap), whitening, means)
        return scores
