"""What detectors on vectors share: checked input, unit length, gaps of logits, a bank's size."""

import torch
from torch import Tensor

from training.detectors.protocol import FitError

# Shorter vectors are as good as zero; dividing by their length would only make noise.
_SHORTEST = 1e-12
# Float64 statistics of identical features leave this share of their mean square as variance.
_ROUNDING = 1e-24
_BYTES_A_VALUE = 4  # banks are float32
_MEGABYTE = 1e6


def finite(features: Tensor) -> Tensor:
    """Features (B, D), detached; FitError if a value is NaN or infinite."""
    features = features.detach()
    if not all_finite(features):
        raise FitError("a training feature is NaN or infinite")
    return features


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite.  One would make the sum so, too, which is quick to see;
    a sum that overflows is looked at value by value."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def unit_length(features: Tensor) -> Tensor:
    """(B, D) -> z / ||z||; a zero vector stays zero."""
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / lengths.clamp(min=_SHORTEST)


def gaps_to_largest(logits: Tensor) -> Tensor:
    """(B, K) -> every other logit less the largest, from the second largest down (B, K - 1)."""
    descending = torch.topk(logits, logits.shape[1], dim=1).values
    largest, others = descending.split([1, logits.shape[1] - 1], dim=1)
    return others - largest


def refuse_constant(variance: float, means: Tensor) -> None:
    """FitError when the largest variance is what rounding leaves of features of these means."""
    if variance <= _ROUNDING * float(means.square().max()):
        raise FitError("the training features do not vary")


def rows_within(megabytes: float, dim: int) -> int:
    """How many float32 vectors of `dim` values a bank of that size holds; FitError below two."""
    rows = int(megabytes * _MEGABYTE / (_BYTES_A_VALUE * dim))
    if rows < 2:
        raise FitError(
            f"bank_megabytes is {megabytes}, which holds {rows} vectors of {dim} features; "
            f"choose at least {2 * _BYTES_A_VALUE * dim / _MEGABYTE}"
        )
    return rows
