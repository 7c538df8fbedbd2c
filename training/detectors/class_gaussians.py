"""A Gaussian of its own for every class, full covariance: streamed, regularised, scored.

A class with fewer than 2 D inputs gets D inputs' worth of the covariance shared by all classes
mixed in, a share of D / (D + n_c): with n_c <= D its own is singular.  Then every covariance is
regularised (training.detectors.gaussian), the silent floor being that of the shared covariance,
so that a unit silent in one class only is not taken for exact, either.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from training.detectors.gaussian import (
    Moments,
    checked_labels,
    refuse_small_classes,
    regularised,
    symmetric,
    usual_variance,
    whitening_of,
)
from training.detectors.protocol import FitError
from training.detectors.vectors import refuse_constant

# empirical: pi_c the training frequencies; uniform: 1 / K; none: each class by itself
Prior = Literal["empirical", "uniform", "none"]
# Below this many inputs a feature, a class's own covariance is mostly noise.
INPUTS_A_FEATURE = 2
# Rows gathered before the K scatter matrices are touched: each is D x D however few rows it gets.
_BLOCK = 4096
_MEGABYTE = 1e6
_ROOT_OF_HALF = math.sqrt(0.5)


class ClassGaussians:
    """Class moments of one stream; `who` is named in errors."""

    def __init__(self, who: str, megabytes: float) -> None:
        self._who = who
        self._limit = megabytes
        self._moments: list[Moments] = []
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Features (B, D), labels (B,).  FitError where the covariances would not fit."""
        if not self._moments:
            self._moments = self._empty(classes, features.shape[1])
        self._waiting.append((features, checked_labels(labels, len(self._moments))))
        if sum(len(rows) for rows, _ in self._waiting) >= _BLOCK:
            self._absorb()

    def buffers(self, shrinkage: float, silent_floor: float, prior: Prior) -> dict[str, Tensor]:
        """What `log_densities` reads, float32, and `tied_shares` (K,); FitError where data fail."""
        if not self._moments:
            raise FitError(f"{self._who} saw no training inputs")
        self._absorb()
        moments, (tied, counts) = self._moments, self._tied()
        dim, classes = len(tied), len(moments)
        means = torch.stack([one.mean for one in moments])
        refuse_constant(float(tied.diagonal().max()), means)
        center = means.mean(0)
        floor = silent_floor * usual_variance(tied)
        shares = torch.where(counts < INPUTS_A_FEATURE * dim, dim / (dim + counts), 0.0)
        weights = {
            "empirical": counts / counts.sum(),
            "uniform": counts**0 / classes,
            "none": counts**0,
        }[prior]
        log_weights = weights.log() - dim / 2 * math.log(2 * math.pi)
        whitening = torch.empty(dim, classes, dim)
        whitened_means = torch.empty(classes, dim)
        for c, (one, share) in enumerate(zip(moments, shares, strict=True)):
            covariance = (1 - share) * one.covariance(lost=1) + share * tied
            inverse = whitening_of(regularised(covariance, shrinkage, floor))
            whitening[:, c] = inverse.T.float()
            whitened_means[c] = (inverse @ (one.mean - center)).float()
            log_weights[c] += inverse.diagonal().log().sum()  # -1/2 log det cov
        return {
            "center": center.float(),
            "whitening": whitening.flatten(1),  # (D, K D)
            "whitened_means": whitened_means,
            "log_weights": log_weights.float(),
            "tied_shares": shares.float(),
        }

    def _empty(self, classes: int, dim: int) -> list[Moments]:
        megabytes = classes * dim * dim * 8 / _MEGABYTE
        if megabytes > self._limit:
            raise FitError(
                f"{self._who}: {classes} covariances of {dim} features take {megabytes:.0f} MB "
                f"while fitting; the limit covariance_megabytes is {self._limit:g}. "
                "Raise it, or use rmds or mahalanobis, whose classes share one covariance"
            )
        return [Moments() for _ in range(classes)]

    def _absorb(self) -> None:
        if not self._waiting:
            return
        features = torch.cat([rows for rows, _ in self._waiting]).cpu()
        labels = torch.cat([part for _, part in self._waiting])
        self._waiting = []
        for c in labels.unique().tolist():
            self._moments[c].add(features[labels == c])

    def _tied(self) -> tuple[Tensor, Tensor]:
        """The covariance shared by all classes, unbiased (D, D), and the counts (K,)."""
        counts = torch.tensor([one.count for one in self._moments], dtype=torch.float64)
        refuse_small_classes(counts)
        scatter = torch.zeros_like(self._moments[0].scatter)
        for one in self._moments:
            scatter += one.scatter
        return symmetric(scatter / (counts.sum() - len(counts))), counts


def log_densities(features: Tensor, fitted: nn.Module) -> Tensor:
    """Features (B, D), a module with the buffers -> log pi_c + log N(z; mu_c, cov_c), (B, K)."""
    means = fitted.get_buffer("whitened_means")  # (K, D)
    centred = features - fitted.get_buffer("center")
    # scaled so that squares are halves of distances
    whitening, shift = (
        fitted.get_buffer("whitening") * _ROOT_OF_HALF,
        means.flatten() * -_ROOT_OF_HALF,
    )
    gaps = torch.addmm(shift, centred, whitening).view(-1, *means.shape)  # (B, K, D)
    return fitted.get_buffer("log_weights") - gaps.square().sum(dim=2)


def tied_remark(name: str, shares: Tensor) -> tuple[str, ...]:
    """What the report must say where classes lean on the shared covariance; shares (K,)."""
    mixed = int((shares > 0).sum())
    if mixed == 0:
        return ()
    return (
        f"{name}: {mixed} of {len(shares)} classes have fewer training inputs than "
        f"{INPUTS_A_FEATURE} a feature; their covariances are up to "
        f"{float(shares.max()):.0%} the one shared by all classes.",
    )


def check_megabytes(name: str, megabytes: float) -> None:
    """ValueError naming the detector and the option."""
    if megabytes <= 0:
        raise ValueError(f"{name}: covariance_megabytes is {megabytes}; it must be positive")
