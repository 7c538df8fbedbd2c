"""The density of everything the network was trained on, outliers included: an epistemic score.

p(z) = p(z | ID) P(ID) / P(ID | z): the class Gaussians of Mukhoti et al. 2021 (DDU),
arXiv:2102.11582, and the head that tells outliers from ID.  Higher = less like anything seen.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.classifier import Classifier
from training.detectors.class_gaussians import (
    ClassGaussians,
    check_megabytes,
    log_densities,
    tied_remark,
)
from training.detectors.gaussian import check_regularisation
from training.detectors.outlier_head import copied_head, outlier_logit
from training.detectors.protocol import Detector
from training.outputs import Outputs

_ID_SHARE = 0.5  # the prior odds the head was trained at


class OverallDensity(Detector):
    """-log p(z | ID) - log P(ID) + log P(ID | z).

    Outliers of a kind that was trained on are OOD, yet known: here they score lower than in
    gda_density, by as much as the head is sure of them.
    """

    cost = "features"
    reference = "arXiv:2102.11582"
    summary = (
        "Minus the log-density of the features under everything trained on, outliers included: "
        "low for outliers of a known kind; needs the objective binary_head."
    )

    def __init__(
        self,
        shrinkage: float = 1e-3,
        silent_floor: float = 0.1,
        covariance_megabytes: float = 500.0,
    ) -> None:
        super().__init__()
        check_regularisation("overall_density", shrinkage, silent_floor)
        check_megabytes("overall_density", covariance_megabytes)
        self.shrinkage = shrinkage
        self.silent_floor = silent_floor
        self.covariance_megabytes = covariance_megabytes
        self._forget()

    def prepare(self, classifier: Classifier) -> None:
        for name, value in copied_head("overall_density", classifier).items():
            self.register_buffer(name, value)
        self._forget()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._gaussians.add(outputs.features, labels, outputs.logits.shape[1])

    def finish(self) -> None:
        buffers = self._gaussians.buffers(self.shrinkage, self.silent_floor, "empirical")
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self._forget()

    def remarks(self) -> tuple[str, ...]:
        return tied_remark("overall_density", self.fitted("tied_shares"))

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {
            "shrinkage": self.shrinkage,
            "silent_floor": self.silent_floor,
            "id_share": _ID_SHARE,
        }

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> minus the log-density (B,)."""
        self.fitted("whitened_means")
        density = torch.logsumexp(log_densities(outputs.features, self), dim=1)
        log_id = -F.softplus(outlier_logit(outputs.features, self))
        return {"overall_density": log_id - density - math.log(_ID_SHARE)}

    def _forget(self) -> None:
        self._gaussians = ClassGaussians("overall_density", self.covariance_megabytes)
