"""Simplified Hopfield energy.  Source: Zhang et al., ICLR 2023; evaluated in arXiv:2306.09301.

Higher = more OOD.
"""

import torch
from torch import Tensor

from training.detectors.protocol import Detector, FitError
from training.detectors.vectors import all_finite
from training.outputs import Outputs


class She(Detector):
    """Minus the inner product of the features with the predicted class's stored pattern.

    A class's pattern is the mean of its correctly classified train-ID features.
    """

    cost = "features"
    # the method has no preprint of its own: the benchmark that took it up
    reference = "arXiv:2306.09301"
    summary = (
        "Minus the inner product of the features with the mean features of the predicted class; "
        "needs train-ID features and labels."
    )

    def __init__(self) -> None:
        super().__init__()
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.float64)

    def prepare(self, classifier: object) -> None:
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.float64)

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        features = outputs.features.detach().double().cpu()
        if not all_finite(features):
            raise FitError("she: a training feature is NaN or infinite")
        classes = outputs.logits.shape[1]
        if not len(self._counts):
            self._sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
            self._counts = torch.zeros(classes, dtype=torch.float64)
        labels = labels.cpu()
        correct = outputs.logits.argmax(1).cpu() == labels
        self._sums.index_add_(0, labels[correct], features[correct])
        self._counts += torch.bincount(labels[correct], minlength=classes)

    def finish(self) -> None:
        if not len(self._counts):
            raise FitError("she saw no training inputs")
        empty = (self._counts == 0).nonzero().flatten().tolist()
        if empty:
            raise FitError(
                f"she: no training input of classes {empty} is classified correctly; each needs "
                f"one to store its pattern"
            )
        self.register_buffer("patterns", (self._sums / self._counts[:, None]).float())
        self.prepare(None)

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D), logits (B, K) -> she (B,), -<z, pattern of the predicted class>."""
        opposite = (-self.fitted("patterns"))[outputs.logits.argmax(dim=1)]  # (B, D)
        return {"she": (outputs.features * opposite).sum(dim=1)}
