"""Principal subspaces of streamed features."""

import torch
from torch import Tensor

from training.detectors.vectors import refuse_constant

# Float32 features that lie in a subspace exactly leave this share of the largest variance.
_ROUNDING = 1e-12


def spectrum(covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """(D, D) float64 -> eigenvalues (D,) descending and >= 0, eigenvectors (D, D) as columns.

    FitError when features of that mean (D,) and covariance do not vary.
    """
    refuse_constant(float(covariance.diagonal().max()), mean)
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def rank(eigenvalues: Tensor) -> int:
    """Directions, of descending eigenvalues, that carry more than rounding."""
    return int((eigenvalues > _ROUNDING * eigenvalues[0]).sum())


def components_for(eigenvalues: Tensor, ratio: float) -> int:
    """The fewest leading directions that hold at least `ratio` of the variance."""
    held = eigenvalues.cumsum(0) / eigenvalues.sum()
    # a sum may end at 1 - 1e-16
    return min(int((held < ratio).sum()) + 1, len(eigenvalues))


def residual_norm(centred: Tensor, components: Tensor) -> Tensor:
    """Rows (B, D), orthonormal columns (D, q) -> norm of what the columns do not span (B,).

    Subtracts the projection: the difference of squared norms would cancel.
    """
    residual = torch.addmm(centred, centred @ components, components.T, alpha=-1)
    return torch.linalg.vector_norm(residual, dim=1)
