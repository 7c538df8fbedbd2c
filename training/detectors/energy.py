"""Energy.  Source: Liu et al. 2020, arXiv:2010.03759.  Higher = more OOD.

The paper thresholds the negative energy; this is the energy itself.
"""

import torch
from torch import Tensor

from training.detectors.protocol import Detector
from training.outputs import Outputs


class Energy(Detector):
    reference = "arXiv:2010.03759"
    summary = (
        "Minus log-sum-exp of the logits, T log sum exp(f / T): the free energy; needs no fit."
    )

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"energy: temperature is {temperature}; it must be positive")
        self.temperature = temperature

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"temperature": self.temperature}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> energy (B,), -T * logsumexp(f / T)."""
        scaled = outputs.logits / self.temperature
        return {"energy": -self.temperature * torch.logsumexp(scaled, dim=1)}
