"""Reconstruction error under a cosine kernel PCA.

Source: Fang et al. 2024, arXiv:2402.02949.  Higher = more OOD.
"""

from torch import Tensor

from training.classifier import Classifier
from training.detectors.gaussian import Moments
from training.detectors.protocol import Detector, FitError
from training.detectors.subspace import components_for, residual_norm, spectrum
from training.detectors.vectors import unit_length
from training.outputs import Outputs


class Cop(Detector):
    """Distance of z / ||z|| to the principal subspace of the training features, itself centred.

    The subspace is spanned by the fewest leading directions that hold `variance_ratio` of the
    variance.  The published ratios, chosen for each network: 0.85 for CIFAR-10, 0.99 and 0.7
    for ImageNet.
    """

    cost = "features"
    reference = "arXiv:2402.02949"
    summary = (
        "Length of the normalised features outside the principal subspace of the training "
        "features: constant memory, where KNN needs a bank."
    )

    def __init__(self, variance_ratio: float = 0.85) -> None:
        super().__init__()
        if not 0 < variance_ratio < 1:
            raise ValueError(f"cop: variance_ratio is {variance_ratio}; choose between 0 and 1")
        self.variance_ratio = variance_ratio
        self._moments = Moments()

    def prepare(self, classifier: Classifier) -> None:
        self._moments = Moments()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._moments.add(unit_length(outputs.features.detach().double()))

    def finish(self) -> None:
        if self._moments.count == 0:
            raise FitError("cop saw no training inputs")
        values, vectors = spectrum(self._moments.covariance(), self._moments.mean)
        kept = components_for(values, self.variance_ratio)
        if kept == len(values):
            raise FitError(
                f"cop: {self.variance_ratio} of the variance needs all {kept} directions, which "
                "leaves no error to measure; lower variance_ratio"
            )
        self.register_buffer("center", self._moments.mean.float())
        self.register_buffer("components", vectors[:, :kept].float().contiguous())  # (D, q)
        self._moments = Moments()

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {"variance_ratio": self.variance_ratio}
        if "components" in self._buffers:
            values["components"] = self.fitted("components").shape[1]
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> reconstruction error (B,)."""
        centred = unit_length(outputs.features) - self.fitted("center")
        return {"cop": residual_norm(centred, self.fitted("components"))}
