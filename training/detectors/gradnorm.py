"""GradNorm in closed form.  Source: Huang et al. 2021, arXiv:2110.00218.  Higher = more OOD."""

import torch
from torch import Tensor

from training.detectors.protocol import Detector
from training.outputs import Outputs


class GradNorm(Detector):
    """Minus the L1 norm of the gradient of KL(uniform || softmax) by the head's weights, times K.

    That gradient is the outer product of softmax - 1/K and the features, so no backward pass
    is needed.
    """

    cost = "features"
    reference = "arXiv:2110.00218"
    summary = (
        "Minus the L1 norm of the features times how far softmax is from uniform: the size of a "
        "gradient by the head's weights; needs no fit."
    )

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"gradnorm: temperature is {temperature}; it must be positive")
        self.temperature = temperature

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"temperature": self.temperature}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D), logits (B, K) -> gradnorm (B,), -|z|_1 sum |K p - 1|."""
        classes = outputs.logits.shape[1]
        # not softmax itself: kl_matching reads the logarithms, and a graph computes them once
        probabilities = torch.log_softmax(outputs.logits / self.temperature, dim=1).exp()
        distance = (probabilities - 1 / classes).abs().sum(dim=1)
        return {"gradnorm": -classes * outputs.features.abs().sum(dim=1) * distance}
