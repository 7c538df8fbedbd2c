"""ReAct.  Source: Sun et al. 2021, arXiv:2111.12797.  Higher = more OOD."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from training.classifier import Classifier
from training.detectors.penultimate import FeatureSummary, linear_head
from training.detectors.protocol import Detector, FitError
from training.detectors.reservoir import Reservoir
from training.outputs import Outputs

_SAMPLE = 10_000


class ReAct(Detector):
    """Energy of the logits after cutting the features at a percentile of all ID activations.

    The percentile is taken over every feature of 10,000 train-ID inputs drawn uniformly (of all
    where there are fewer).
    """

    cost = "features"
    reference = "arXiv:2111.12797"
    summary = (
        "Energy of the logits that the head gives once unusually large features are cut off; "
        "needs train-ID features."
    )

    def __init__(self, percentile: float = 90.0) -> None:
        super().__init__()
        if not 0 < percentile < 100:
            raise ValueError(f"react: percentile is {percentile}; choose between 0 and 100")
        self.percentile = percentile
        self._summary = FeatureSummary()
        self._sample = Reservoir(_SAMPLE)

    def prepare(self, classifier: Classifier) -> None:
        self._buffers.clear()
        weight, bias = linear_head(classifier)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self._summary = FeatureSummary()
        self._sample = Reservoir(_SAMPLE)

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._summary.add(outputs.features)
        self._sample.add(outputs.features)

    def finish(self) -> None:
        if not self._buffers or not self._sample.passed:
            raise FitError("react needs the classifier's head (prepare) and training features")
        (features,) = self._sample.columns()
        ceiling = float(np.percentile(features.numpy(), self.percentile))
        if ceiling <= 0:
            raise FitError(
                f"react: {self.percentile:g} % of the activations are at most {ceiling:g}, so the "
                f"cut leaves nothing of the others; raise percentile"
            )
        self.register_buffer("ceiling", torch.tensor(ceiling, dtype=torch.float32))
        self.register_buffer("lowest", torch.tensor(self._summary.lowest, dtype=torch.float32))
        self._sample = Reservoir(_SAMPLE)

    def remarks(self) -> tuple[str, ...]:
        lowest = self.noted("lowest")
        if lowest is None or lowest >= 0:
            return ()
        return (
            f"react: penultimate features go down to {lowest.item():.3g}; the method supposes "
            f"rectified ones and cuts only large positive values.",
        )

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"percentile": self.percentile}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> react (B,), -logsumexp(W min(z, c) + b)."""
        cut = torch.minimum(outputs.features, self.fitted("ceiling"))
        logits = linear(cut, self.fitted("weight"), self.fitted("bias"))
        return {"react": -torch.logsumexp(logits, dim=1)}
