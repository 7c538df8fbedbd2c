"""Reconstruction error under a cosine-Gaussian kernel PCA, by random Fourier features.

Source: Fang et al. 2024, arXiv:2402.02949; the features: Rahimi & Recht 2007.
Higher = more OOD.
"""

import math

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.gaussian import Moments
from training.detectors.protocol import Detector, FitError
from training.detectors.subspace import components_for, residual_norm, spectrum
from training.detectors.vectors import finite, unit_length
from training.outputs import Outputs

_FEATURES_A_DIMENSION = 4
_MOST_FEATURES = 4096


class Corp(Detector):
    """`cop` on phi(z / ||z||), phi_j(x) = sqrt(2 / M) cos(w_j x + u_j).

    w_j ~ N(0, 2 gamma I) and u_j ~ U(0, 2 pi), drawn once from `seed` and kept in the fit, so
    that <phi(x), phi(y)> approximates exp(-gamma ||x - y||^2).  fourier_features 0 means
    M = 4 D, at most 4096, which is what was published for D = 512 and 2048.  The published
    gamma and variance_ratio, chosen for each network: 2 and 0.8 for CIFAR-10, 3 and 0.5 for
    ImageNet.  Fitting takes one M x M eigendecomposition: a minute for M = 4096.
    """

    cost = "features"
    reference = "arXiv:2402.02949"
    summary = (
        "Length of the random Fourier features of the normalised features outside their "
        "principal subspace: constant memory, where KNN needs a bank."
    )

    def __init__(
        self,
        variance_ratio: float = 0.8,
        gamma: float = 2.0,
        fourier_features: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < variance_ratio < 1:
            raise ValueError(f"corp: variance_ratio is {variance_ratio}; choose between 0 and 1")
        if gamma <= 0:
            raise ValueError(f"corp: gamma is {gamma}; it must be positive")
        if fourier_features < 0 or fourier_features == 1:
            raise ValueError(f"corp: fourier_features is {fourier_features}; choose 0, 2 or more")
        self.variance_ratio = variance_ratio
        self.gamma = gamma
        self.fourier_features = fourier_features
        self.seed = seed
        self._moments = Moments()

    def prepare(self, classifier: Classifier) -> None:
        self._moments = Moments()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        features = finite(outputs.features).cpu()
        if self._moments.count == 0:
            self._draw(features.shape[1])
        self._moments.add(self._mapped(features))

    def finish(self) -> None:
        if self._moments.count == 0:
            raise FitError("corp saw no training inputs")
        values, vectors = spectrum(self._moments.covariance(), self._moments.mean)
        kept = components_for(values, self.variance_ratio)
        if kept == len(values):
            raise FitError(
                f"corp: {self.variance_ratio} of the variance needs all {kept} directions, which "
                "leaves no error to measure; lower variance_ratio or raise fourier_features"
            )
        self.register_buffer("center", self._moments.mean.float())
        self.register_buffer("components", vectors[:, :kept].float().contiguous())  # (M, q)
        self._moments = Moments()

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "variance_ratio": self.variance_ratio,
            "gamma": self.gamma,
            "fourier_features": self.fourier_features,
            "seed": self.seed,
        }
        if "components" in self._buffers:
            values["fourier_features"], values["components"] = self.fitted("components").shape
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> reconstruction error in Fourier space (B,)."""
        components = self.fitted("components")
        centred = self._mapped(outputs.features) - self.fitted("center")
        return {"corp": residual_norm(centred, components)}

    def _draw(self, dim: int) -> None:
        count = self.fourier_features or min(_FEATURES_A_DIMENSION * dim, _MOST_FEATURES)
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(dim, count, generator=generator, dtype=torch.float64)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        self.register_buffer("frequencies", (math.sqrt(2 * self.gamma) * normal).float())
        self.register_buffer("phases", (2 * math.pi * uniform).float())

    def _mapped(self, features: Tensor) -> Tensor:
        frequencies = self.fitted("frequencies")  # (D, M)
        angles = unit_length(features) @ frequencies + self.fitted("phases")
        return torch.cos(angles) * math.sqrt(2 / frequencies.shape[1])
