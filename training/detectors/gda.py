"""Gaussian discriminant analysis density.

Source: Mukhoti et al. 2021 (DDU), arXiv:2102.11582.  Higher = more OOD.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors.gaussian import (
    Moments,
    check_regularisation,
    checked_labels,
    refuse_small_classes,
    regularised,
    symmetric,
    usual_variance,
    whitening_of,
)
from training.detectors.protocol import Detector, FitError
from training.detectors.vectors import refuse_constant
from training.outputs import Outputs

# Below this many inputs a feature, a class's own covariance is mostly noise.
_INPUTS_A_FEATURE = 2
# Rows gathered before the K scatter matrices are touched: each is D x D however few rows it gets.
_BLOCK = 4096
_MEGABYTE = 1e6
_HALF = math.sqrt(0.5)


class Gda(Detector):
    """`gda_density`: -log sum_c pi_c N(z; mu_c, cov_c) of the penultimate features.

    Each class has a mean and a full, unbiased covariance of its own.  A class with fewer than
    2 D inputs gets D inputs' worth of the covariance shared by all classes mixed in, a share
    of D / (D + n_c): with n_c <= D its own is singular.  Then every covariance is regularised
    (training.detectors.gaussian), the silent floor being that of the shared covariance, so
    that a unit silent in one class only is not taken for exact, either.

    `prior`: `empirical` (pi_c the training frequencies, as the paper writes) or `uniform`
    (pi_c = 1 / K, as its evaluation code has it).  Published for networks trained with spectral
    normalisation.
    """

    cost = "features"
    reference = "arXiv:2102.11582"
    summary = (
        "Minus the log-density of the features under one full-covariance Gaussian per class; "
        "needs more inputs of every class than there are features."
    )

    def __init__(
        self,
        shrinkage: float = 1e-3,
        silent_floor: float = 0.1,
        prior: str = "empirical",
        covariance_megabytes: float = 500.0,
    ) -> None:
        super().__init__()
        check_regularisation("gda", shrinkage, silent_floor)
        if prior not in ("empirical", "uniform"):
            raise ValueError(f"gda: prior {prior!r}; choose empirical or uniform")
        if covariance_megabytes <= 0:
            raise ValueError(
                f"gda: covariance_megabytes is {covariance_megabytes}; it must be positive"
            )
        self.shrinkage = shrinkage
        self.silent_floor = silent_floor
        self.prior = prior
        self.covariance_megabytes = covariance_megabytes
        self._forget()

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return ("_density",)

    def prepare(self, classifier: Classifier) -> None:
        self._forget()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        if not self._moments:
            self._moments = self._empty_moments(outputs.logits.shape[1], outputs.features.shape[1])
        self._waiting.append((outputs.features, checked_labels(labels, len(self._moments))))
        if sum(len(rows) for rows, _ in self._waiting) >= _BLOCK:
            self._absorb()

    def finish(self) -> None:
        if not self._moments:
            raise FitError("gda saw no training inputs")
        self._absorb()
        moments, (tied, counts) = self._moments, self._tied()
        dim, classes = len(tied), len(moments)
        means = torch.stack([one.mean for one in moments])
        refuse_constant(float(tied.diagonal().max()), means)
        center = means.mean(0)
        floor = self.silent_floor * usual_variance(tied)
        shares = torch.where(counts < _INPUTS_A_FEATURE * dim, dim / (dim + counts), 0.0)
        weights = counts / counts.sum() if self.prior == "empirical" else counts**0 / classes
        log_weights = weights.log() - dim / 2 * math.log(2 * math.pi)
        whitening = torch.empty(dim, classes, dim)
        whitened_means = torch.empty(classes, dim)
        for c, (one, share) in enumerate(zip(moments, shares, strict=True)):
            covariance = (1 - share) * one.covariance(lost=1) + share * tied
            inverse = whitening_of(regularised(covariance, self.shrinkage, floor))
            whitening[:, c] = inverse.T.float()
            whitened_means[c] = (inverse @ (one.mean - center)).float()
            log_weights[c] += inverse.diagonal().log().sum()  # -1/2 log det cov
        self.register_buffer("center", center.float())
        self.register_buffer("whitening", whitening.flatten(1))  # (D, K D)
        self.register_buffer("whitened_means", whitened_means)
        self.register_buffer("log_weights", log_weights.float())
        self.register_buffer("tied_shares", shares.float())
        self._forget()

    def remarks(self) -> tuple[str, ...]:
        shares = self.fitted("tied_shares")
        mixed = int((shares > 0).sum())
        if mixed == 0:
            return ()
        return (
            f"gda_density: {mixed} of {len(shares)} classes have fewer training inputs than "
            f"{_INPUTS_A_FEATURE} a feature; their covariances are up to "
            f"{float(shares.max()):.0%} the one shared by all classes.",
        )

    def hyperparameters(self) -> dict[str, float | int | str]:
        values: dict[str, float | int | str] = {
            "shrinkage": self.shrinkage,
            "silent_floor": self.silent_floor,
            "prior": self.prior,
        }
        if "tied_shares" in self._buffers:
            values["largest_tied_share"] = round(float(self.fitted("tied_shares").max()), 6)
        return values

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> minus the log-density (B,)."""
        means = self.fitted("whitened_means")  # (K, D)
        centred = outputs.features - self.fitted("center")
        # scaled so that squares are halves of distances
        whitening, shift = self.fitted("whitening") * _HALF, means.flatten() * -_HALF
        gaps = torch.addmm(shift, centred, whitening).view(-1, *means.shape)  # (B, K, D)
        density = torch.logsumexp(self.fitted("log_weights") - gaps.square().sum(dim=2), dim=1)
        return {"gda_density": -density}

    def _forget(self) -> None:
        self._moments: list[Moments] = []
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def _empty_moments(self, classes: int, dim: int) -> list[Moments]:
        megabytes = classes * dim * dim * 8 / _MEGABYTE
        if megabytes > self.covariance_megabytes:
            raise FitError(
                f"gda: {classes} covariances of {dim} features take {megabytes:.0f} MB while "
                f"fitting; the limit covariance_megabytes is {self.covariance_megabytes:g}. "
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
