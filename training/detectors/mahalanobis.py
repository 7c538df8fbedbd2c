"""Mahalanobis distance to the nearest class, on every tapped layer.

Source: Lee et al. 2018, arXiv:1807.03888 (whose confidence is the negative).
Higher = more OOD.
"""

from torch import Tensor

from training.detectors.gaussian import ClassMoments, nearest_class_distance
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs


class Mahalanobis(Detector):
    """`mahalanobis` reads the penultimate layer, `mahalanobis_<layer>` each other one.

    Maps are averaged over space.  The covariance is shared by the classes and shrunk by
    `shrinkage` towards a multiple of the identity.  No input perturbation.
    """

    cost = "layers"
    reference = "arXiv:1807.03888"
    summary = (
        "Squared Mahalanobis distance of the layer's pooled features to the nearest class mean."
    )

    def __init__(self, shrinkage: float = 1e-3) -> None:
        super().__init__()
        if not 0 < shrinkage < 1:
            raise ValueError(f"mahalanobis: shrinkage is {shrinkage}; choose between 0 and 1")
        self.shrinkage = shrinkage
        self._moments: dict[str, ClassMoments] = {}

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
            classes = moments.whitened(self.shrinkage)
            self.register_buffer(f"whitening_{layer}", classes.whitening)
            self.register_buffer(f"whitened_means_{layer}", classes.whitened_means)
        self._moments = {}

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"shrinkage": self.shrinkage}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Each tap (B, C, H, W) or (B, D) -> squared distance to the nearest class (B,)."""
        scores = {}
        for layer, tap in outputs.taps.items():
            whitening = self.fitted(f"whitening_{layer}")
            means = self.fitted(f"whitened_means_{layer}")
            name = "mahalanobis" if layer == outputs.penultimate else f"mahalanobis_{layer}"
            scores[name] = nearest_class_distance(pooled(tap), whitening, means)
        return scores


def pooled(tap: Tensor) -> Tensor:
    """(B, C, H, W) -> spatial mean (B, C); (B, D) unchanged."""
    return tap.mean(dim=(2, 3)) if tap.dim() == 4 else tap
