"""What detectors on the penultimate layer share: the head, and a summary of the features."""

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.protocol import FitError
from training.detectors.vectors import finite


def linear_head(classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Copies of the head's weights (K, D) and bias (K,), float32, CPU; no bias reads as zeros."""
    head = classifier.head
    weight = head.weight.detach().float().cpu().clone()
    if head.bias is None:
        return weight, torch.zeros(len(weight))
    return weight, head.bias.detach().float().cpu().clone()


class FeatureSummary:
    """Mean (D,) in float64 and smallest value of all features that passed by."""

    def __init__(self) -> None:
        self.count = 0
        self.lowest = float("inf")
        self._sum = torch.zeros(0, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Features (B, D).  FitError if a value is not finite."""
        features = finite(features).double().cpu()
        batch = features.sum(0)
        self._sum = self._sum + batch if self.count else batch
        self.count += len(features)
        self.lowest = min(self.lowest, features.min().item())

    def mean(self) -> Tensor:
        """(D,) float64; FitError before the first `add`."""
        if self.count == 0:
            raise FitError("no training features were seen; a mean needs at least one")
        return self._sum / self.count
