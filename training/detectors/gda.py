"""Gaussian discriminant analysis density.

Source: Mukhoti et al. 2021 (DDU), arXiv:2102.11582.  Higher = more OOD.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.class_gaussians import (
    ClassGaussians,
    Prior,
    check_megabytes,
    log_densities,
    tied_remark,
)
from training.detectors.gaussian import check_regularisation
from training.detectors.protocol import Detector
from training.outputs import Outputs


class Gda(Detector):
    """`gda_density`: -log sum_c pi_c N(z; mu_c, cov_c) of the penultimate features.

    Each class has a mean and a full, unbiased covariance of its own
    (training.detectors.class_gaussians).

    `prior`: `empirical` (pi_c the training frequencies, as the paper writes) or `uniform`
    (pi_c = 1 / K, as its evaluation code has it).  Published for networks trained with spectral
    normalisation.
    """

    cost = "features"
    reference = "arXiv:2102.11582"
    summary = (
        "Minus the log-density of the features under one full-covariance Gaussian per class; "
        "needs more inputs of every class than there are features."
    )

    def __init__(
        self,
        shrinkage: float = 1e-3,
        silent_floor: float = 0.1,
        prior: Prior = "empirical",
        covariance_megabytes: float = 500.0,
    ) -> None:
        super().__init__()
        check_regularisation("gda", shrinkage, silent_floor)
        if prior not in ("empirical", "uniform"):
            raise ValueError(f"gda: prior {prior!r}; choose empirical or uniform")
        check_megabytes("gda", covariance_megabytes)
        self.shrinkage = shrinkage
        self.silent_floor = silent_floor
        self.prior: Prior = prior
        self.covariance_megabytes = covariance_megabytes
        self._forget()

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return ("_density",)

    def prepare(self, classifier: Classifier) -> None:
        self._forget()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._gaussians.add(outputs.features, labels, outputs.logits.shape[1])

    def finish(self) -> None:
        buffers = self._gaussians.buffers(self.shrinkage, self.silent_floor, self.prior)
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self._forget()

    def remarks(self) -> tuple[str, ...]:
        return tied_remark("gda_density", self.fitted("tied_shares"))

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "shrinkage": self.shrinkage,
            "silent_floor": self.silent_floor,
            "prior": self.prior,
        }
        if "tied_shares" in self._buffers:
            values["largest_tied_share"] = round(float(self.fitted("tied_shares").max()), 6)
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> minus the log-density (B,)."""
        self.fitted("whitened_means")
        density = torch.logsumexp(log_densities(outputs.features, self), dim=1)
        return {"gda_density": -density}

    def _forget(self) -> None:
        self._gaussians = ClassGaussians("gda", self.covariance_megabytes)
