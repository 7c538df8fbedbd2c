"""VMDLS_b: the likeliest class Gaussian of several layers at once.

Source: Dinari & Freifeld, UAI 2022, openreview.net/forum?id=ScLeuUUi9gq.  Higher = more OOD.
"""

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.class_gaussians import (
    ClassGaussians,
    check_megabytes,
    log_densities,
    tied_remark,
)
from training.detectors.gaussian import check_regularisation
from training.detectors.protocol import Detector
from training.outputs import Outputs, pooled

_LOGITS = "logits"


class VmdlsB(Detector):
    """-max_c log N(t; m_c, S_c), t every tapped layer but the logits, maps averaged over space,
    side by side; each class has a full covariance (training.detectors.class_gaussians).

    Published for networks trained with the objective vmdls, whose last layer is the latent mean.
    """

    cost = "layers"
    reference = "openreview:ScLeuUUi9gq"
    summary = (
        "Minus the log-likelihood of all layers' pooled features under the likeliest class's "
        "full-covariance Gaussian."
    )

    def __init__(
        self,
        shrinkage: float = 1e-3,
        silent_floor: float = 0.1,
        covariance_megabytes: float = 500.0,
    ) -> None:
        super().__init__()
        check_regularisation("vmdls_b", shrinkage, silent_floor)
        check_megabytes("vmdls_b", covariance_megabytes)
        self.shrinkage = shrinkage
        self.silent_floor = silent_floor
        self.covariance_megabytes = covariance_megabytes
        self._forget()

    def prepare(self, classifier: Classifier) -> None:
        self._forget()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._gaussians.add(feature_ensemble(outputs), labels, outputs.logits.shape[1])

    def finish(self) -> None:
        buffers = self._gaussians.buffers(self.shrinkage, self.silent_floor, "none")
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self._forget()

    def remarks(self) -> tuple[str, ...]:
        return tied_remark("vmdls_b", self.fitted("tied_shares"))

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "shrinkage": self.shrinkage,
            "silent_floor": self.silent_floor,
        }
        if "tied_shares" in self._buffers:
            values["largest_tied_share"] = round(float(self.fitted("tied_shares").max()), 6)
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Taps -> minus the largest log-likelihood (B,)."""
        self.fitted("whitened_means")
        return {"vmdls_b": -log_densities(feature_ensemble(outputs), self).amax(dim=1)}

    def _forget(self) -> None:
        self._gaussians = ClassGaussians("vmdls_b", self.covariance_megabytes)


def feature_ensemble(outputs: Outputs) -> Tensor:
    """t (B, D): the pooled taps but for the logits, in network order."""
    parts = [pooled(tap) for name, tap in outputs.taps.items() if name != _LOGITS]
    return torch.cat(parts, dim=1)
