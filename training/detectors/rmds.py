"""Relative Mahalanobis distance.  Source: Ren et al. 2021, arXiv:2106.09022.

Higher = more OOD.
"""

from torch import Tensor

from training.classifier import Classifier
from training.detectors.gaussian import (
    ClassMoments,
    check_regularisation,
    nearest_class_distance,
    regularised,
    usual_variance,
    whitening_of,
)
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs


class Rmds(Detector):
    """min_c d_c^2 - d_0^2 on the penultimate features.

    d_c: tied-covariance Mahalanobis distance to class c; d_0: the distance under one Gaussian
    over all training features, with its own mean and its own covariance, divided by n as the
    classes' is.  Both covariances get the same silent floor: a feature that never varied tells
    no class from the union, and its part of the two distances cancels.
    """

    cost = "features"
    reference = "arXiv:2106.09022"
    summary = (
        "Squared Mahalanobis distance to the nearest class minus that to one Gaussian over all "
        "training features."
    )

    def __init__(self, shrinkage: float = 1e-3, silent_floor: float = 0.1) -> None:
        super().__init__()
        check_regularisation("rmds", shrinkage, silent_floor)
        self.shrinkage = shrinkage
        self.silent_floor = silent_floor
        self._moments = ClassMoments()
        self._classes = 0

    def prepare(self, classifier: Classifier) -> None:
        self._moments = ClassMoments()
        self._classes = 0

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._classes = outputs.logits.shape[1]
        self._moments.add(outputs.features, labels, self._classes)

    def finish(self) -> None:
        if self._classes == 0:
            raise FitError("rmds saw no training inputs")
        if self._classes == 1:
            raise FitError(
                "rmds compares classes with their union; with one class both are the same"
            )
        everything = self._moments.total()
        classes = self._moments.whitened(self.shrinkage, self.silent_floor, everything.mean)
        floor = self.silent_floor * usual_variance(self._moments.tied())
        background = whitening_of(regularised(everything.covariance(), self.shrinkage, floor))
        self.register_buffer("center", everything.mean.float())
        self.register_buffer("whitening", classes.whitening)
        self.register_buffer("whitened_means", classes.whitened_means)
        self.register_buffer("background_whitening", background.float())
        self._moments = ClassMoments()

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"shrinkage": self.shrinkage, "silent_floor": self.silent_floor}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> difference of squared distances (B,); negative for most ID."""
        centred = outputs.features - self.fitted("center")
        nearest = nearest_class_distance(
            centred, self.fitted("whitening"), self.fitted("whitened_means")
        )
        background = (centred @ self.fitted("background_whitening").T).square().sum(dim=1)
        return {"rmds": nearest - background}
