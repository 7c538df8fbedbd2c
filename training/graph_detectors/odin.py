"""ODIN: temperature, and a step that raises the winning softmax.  Higher = more OOD.

Source: Liang et al. 2018, arXiv:1706.02690.  The OOD-free choice of the step, known as ODIN*:
Hsu et al. 2020, arXiv:2002.11297.
"""

import math

import torch
from torch import Tensor

from training.graph_detectors.gradient import GradientDetector, Sweep
from training.outputs import Outputs


class Odin(GradientDetector):
    """T (-log max softmax(f(u') / T) - log K): ranks as -max softmax, in units of logits.

    L = cross-entropy of f / T against the predicted class.  Its derivative by the logits lacks
    the factor 1/T here: the step reads signs only, and in half precision T = 1000 underflows.
    epsilon: published nets used 0 to 0.0048, tuned for each OOD set; None: chosen on ID data.
    """

    reference = "arXiv:1706.02690"
    summary = (
        "Temperature-scaled softmax after one step of the image towards the predicted class; "
        "two forward passes and one backward."
    )

    def __init__(
        self, name: str = "odin", temperature: float = 1000.0, epsilon: float | None = 0.0014
    ) -> None:
        super().__init__(name, epsilon)
        if not temperature > 0:
            raise ValueError(f"{name}: temperature is {temperature}; it must be positive")
        self.temperature = temperature

    def sweeps(self, outputs: Outputs) -> tuple[Sweep, ...]:
        return (Sweep("logits", self.name),)

    def cotangents(self, outputs: Outputs) -> dict[str, tuple[Tensor, Tensor]]:
        logits = outputs.logits
        predicted = torch.arange(logits.shape[1]).to(logits.device) == logits.argmax(1)[:, None]
        return {"logits": (logits, (logits / self.temperature).softmax(1) - predicted.float())}

    def scores(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> (B,).  In float64: at T = 1000 scores differ in the 4th decimal."""
        scaled = outputs.logits.double() / self.temperature
        confidence = scaled.log_softmax(1).amax(1) + math.log(outputs.logits.shape[1])
        return {self.name: (-self.temperature * confidence).float()}

    def id_likeness(self, scores: Tensor) -> Tensor:
        """The winning softmax of the stepped image, up to the factor 1 / K."""
        return (-scores.double() / self.temperature).exp()

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"temperature": self.temperature, **super().hyperparameters()}
