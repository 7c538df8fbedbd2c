"""Class-conditional Gaussians with one shared covariance, from a stream, in float64.

Means and within-class scatter are merged batch by batch (Chan et al. 1982): two-pass
centring inside a batch, an exact correction between batches; no cancellation, and memory
O(K D + D^2), independent of how many inputs pass by.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.detectors.protocol import FitError


@dataclass(frozen=True)
class WhitenedClasses:
    """whitening W (D, D) with W cov W^T = I; whitened_means (K, D) = means W^T.  float32."""

    whitening: Tensor
    whitened_means: Tensor


class ClassMoments:
    """Counts (K,), means (K, D) and the pooled within-class scatter (D, D)."""

    def __init__(self) -> None:
        self._counts = torch.zeros(0, dtype=torch.float64)
        self._means = torch.zeros(0, 0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Features (B, D), labels (B,) in 0..classes-1.  FitError if a value is not finite."""
        features = features.detach().double().cpu()
        labels = labels.cpu()
        if not torch.isfinite(features).all():
            raise FitError("a training feature is NaN or infinite")
        if self._counts.numel() == 0:
            dim = features.shape[1]
            self._counts = torch.zeros(classes, dtype=torch.float64)
            self._means = torch.zeros(classes, dim, dtype=torch.float64)
            self._scatter = torch.zeros(dim, dim, dtype=torch.float64)
        counts = torch.bincount(labels, minlength=classes).double()
        sums = torch.zeros_like(self._means).index_add_(0, labels, features)
        means = sums / counts.clamp(min=1)[:, None]
        centred = features - means[labels]
        step = means - self._means  # (K, D)
        total = self._counts + counts
        weight = self._counts * counts / total.clamp(min=1)
        self._scatter += centred.T @ centred + (step * weight[:, None]).T @ step
        self._means += step * (counts / total.clamp(min=1))[:, None]
        self._counts = total

    def whitened(self, shrinkage: float) -> WhitenedClasses:
        """Shrink the tied covariance towards a multiple of the identity and invert it.

        cov <- (1 - g) cov + g tr(cov) / D * I.  The floor keeps directions without ID variance
        measurable, where a pseudo-inverse would not see them, and keeps one silent unit from
        outweighing all others.
        Raises FitError when a class has fewer than two inputs or nothing varies at all.
        """
        few = [c for c, count in enumerate(self._counts.tolist()) if count < 2]
        if few or self._counts.numel() == 0:
            raise FitError(f"classes {few} have fewer than two training inputs; each needs two")
        covariance = self._scatter / self._counts.sum()
        covariance = (covariance + covariance.T) / 2
        dim = len(covariance)
        average = covariance.diagonal().mean()
        if average <= 0:
            raise FitError("the training features do not vary within any class")
        identity = torch.eye(dim, dtype=torch.float64)
        shrunk = (1 - shrinkage) * covariance + shrinkage * average * identity
        lower = torch.linalg.cholesky(shrunk)
        whitening = torch.linalg.solve_triangular(lower, identity, upper=False)
        return WhitenedClasses(whitening.float(), (self._means @ whitening.T).float())


def nearest_class_distance(features: Tensor, whitening: Tensor, whitened_means: Tensor) -> Tensor:
    """Features (B, D) -> squared Mahalanobis distance to the nearest class mean (B,).

    Whiten, subtract, square: in float32 this form errs by 1e-5, the expanded one by 5e-4.
    """
    whitened = features @ whitening.T
    gaps = whitened[:, None, :] - whitened_means[None, :, :]  # (B, K, D)
    return gaps.square().sum(dim=2).amin(dim=1)
