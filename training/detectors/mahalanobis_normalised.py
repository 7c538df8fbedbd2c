"""Mahalanobis distance of normalised features.

Source: Mueller & Hein 2025, arXiv:2505.18032.  Higher = more OOD.
"""

from torch import Tensor

from training.classifier import Classifier
from training.detectors.gaussian import (
    ClassMoments,
    check_regularisation,
    nearest_class_distance,
)
from training.detectors.protocol import Detector, FitError
from training.detectors.vectors import unit_length
from training.outputs import Outputs


class MahalanobisNormalised(Detector):
    """The class Gaussians of `mahalanobis`, on penultimate features divided by their length.

    Feature lengths differ between classes and are far from Gaussian; directions fit one shared
    covariance better.  What is lost is the length itself.
    """

    cost = "features"
    reference = "arXiv:2505.18032"
    summary = (
        "Squared Mahalanobis distance of the features, divided by their length, to the nearest "
        "class mean."
    )

    def __init__(self, shrinkage: float = 1e-3, silent_floor: float = 0.1) -> None:
        super().__init__()
        check_regularisation("mahalanobis_normalised", shrinkage, silent_floor)
        self.shrinkage = shrinkage
        self.silent_floor = silent_floor
        self._moments: ClassMoments | None = None

    def prepare(self, classifier: Classifier) -> None:
        self._moments = None

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        if self._moments is None:
            self._moments = ClassMoments()
        directions = unit_length(outputs.features.detach().double())
        self._moments.add(directions, labels, outputs.logits.shape[1])

    def finish(self) -> None:
        if self._moments is None:
            raise FitError("mahalanobis_normalised saw no training inputs")
        center = self._moments.total().mean
        classes = self._moments.whitened(self.shrinkage, self.silent_floor, center)
        self.register_buffer("center", center.float())
        self.register_buffer("whitening", classes.whitening)
        self.register_buffer("whitened_means", classes.whitened_means)
        self._moments = None

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"shrinkage": self.shrinkage, "silent_floor": self.silent_floor}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> squared distance to the nearest class (B,)."""
        centred = unit_length(outputs.features) - self.fitted("center")
        distance = nearest_class_distance(
            centred, self.fitted("whitening"), self.fitted("whitened_means")
        )
        return {"mahalanobis_normalised": distance}
