"""Variational margin-based deep latent space: classes are compact Gaussians, far from each other.

Source: Dinari & Freifeld, "Variational- and metric-based deep latent space for out-of-distribution
detection", UAI 2022, openreview.net/forum?id=ScLeuUUi9gq.  The paper adds the KL term with the sign
turned; it is minimised here.
"""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.classifier import Classifier
from training.objectives.protocol import Batch, Objective
from training.outputs import pooled

SPREAD_HEAD = "log_variance"  # in classifier.heads: g (B, k) -> log sigma^2 (B, d)
_FIRST_MARGIN = 0.15
_SMALLEST_SQUARE = 1e-12  # under a root
_LARGEST_LOG = 20.0  # of a variance: its exponential stays a number
_HEAD_RIDGE = 1e-3  # of the mean variance, so that the covariance has an inverse
_NEVER = 1e-12  # a share


class Vmdls(Objective):
    """z = mu(g) + sigma(g) * noise, mu and sigma linear in g; needs the backbone option latent_dim.

    triplet     max(0, triplet_margin + d_ap - d_an) of all anchors a, positives p of a's class,
                negatives n of another, a mean over those that are not 0
    distancing  max(0, M_d - d_an) of all pairs of different classes, likewise
    kl          KL(N(mu, sigma^2) || N(m_y, prior_std^2)), a mean over dimensions, inputs and then
                classes; m_y is the mean of z of class y over the epoch before, so it starts with
                the second epoch

    sigma starts at `prior_std` for every input; the paper does not say where.  A layer of random
    weights starts near 1, where the first steps compare noise.

    The network's head learns nothing: after the last epoch it is set to the posterior of the
    classes' Gaussians, whose means and shared covariance are those of mu on train-ID.

    `distance`: `unit`, the unsquared distance of z / ||z||, as the released code has it: then no
    distance is above 2, and any `distancing_margin` from 2 on gives the same gradients; `square`,
    the squared distance of z, as the paper writes.  `distancing_margin`: d where left out.  It
    starts at 0.15 and grows by 1 an epoch from `margins_epoch` on until it is reached.
    """

    reference = "openreview:ScLeuUUi9gq"
    weights: ClassVar = {"triplet": 1.0, "distancing": 1.0, "kl": 0.1}
    comparing = frozenset({"triplet", "distancing", "kl"})
    heads = (SPREAD_HEAD,)
    class_means: Tensor
    sums: Tensor
    counts: Tensor
    margin: Tensor

    def __init__(
        self,
        distance: str = "unit",
        triplet_margin: float = 0.1,
        distancing_margin: float | None = None,
        margins_epoch: int = 1,
        prior_std: float = 0.1,
    ) -> None:
        super().__init__()
        if distance not in ("unit", "square"):
            raise ValueError(f"vmdls: distance {distance!r}; choose unit or square")
        if triplet_margin < 0 or (distancing_margin is not None and distancing_margin <= 0):
            raise ValueError(
                f"vmdls: triplet_margin {triplet_margin}, distancing_margin {distancing_margin}; "
                "margins are positive"
            )
        if prior_std <= 0 or margins_epoch < 0:
            raise ValueError(
                f"vmdls: prior_std {prior_std} must be positive, margins_epoch {margins_epoch} not "
                "negative"
            )
        self.distance, self.triplet_margin = distance, triplet_margin
        self.distancing_margin, self.margins_epoch = distancing_margin, margins_epoch
        self.prior_std = prior_std
        self.started = False  # whether there are means of an epoch before
        self.register_buffer("margin", torch.tensor(_FIRST_MARGIN))
        for name in ("class_means", "sums", "counts"):
            self.register_buffer(name, torch.zeros(0))

    def prepare(self, classifier: Classifier, shares: Tensor) -> None:
        super().prepare(classifier, shares)
        if classifier.generator is None:
            raise ValueError(
                "objective vmdls: its latent is drawn from a layer of its own; set latent_dim in "
                "backbone_options, 32 as published"
            )
        device, d, k = classifier.device, classifier.head.in_features, len(shares)
        given = pooled(self._generator(classifier, classifier.example())).shape[1]
        spread = nn.Linear(given, d)
        nn.init.zeros_(spread.weight)
        nn.init.constant_(spread.bias, 2 * math.log(self.prior_std))
        classifier.heads[SPREAD_HEAD] = spread.to(device)
        self.class_means = torch.zeros(k, d, device=device)
        self.sums, self.counts = torch.zeros(k, d, device=device), torch.zeros(k, device=device)
        self.margin = self.margin.to(device)

    @staticmethod
    @torch.no_grad()
    def _generator(classifier: Classifier, inputs: Tensor) -> Tensor:
        assert classifier.generator is not None  # noqa: S101
        return classifier.eval()(inputs).taps[classifier.generator]

    def begin_epoch(self, epoch: int, classifier: Classifier) -> None:
        """The means of the epoch before, this epoch's margin."""
        seen = self.counts[:, None]
        self.class_means = torch.where(seen > 0, self.sums / seen.clamp(min=1), self.class_means)
        self.started = epoch > 0
        self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        whole = self.distancing_margin or float(self.class_means.shape[1])
        steps = max(0, epoch - self.margins_epoch + 1)
        self.margin = torch.full_like(self.margin, min(whole, _FIRST_MARGIN + steps))

    @torch.no_grad()
    def finish(self, classifier: Classifier, seen: Iterable[Batch]) -> None:
        """log pi_y N(mu; m_y, S) / N(mu; m, S), m the mean of all, is linear in mu: no choice of an
        origin of the latent enters, and the energy is that of a likelihood ratio."""
        parts = [(batch.id_outputs.features.double(), batch.labels) for batch in seen]
        mu, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        counts = labels.bincount(minlength=len(self.counts))
        sums = mu.new_zeros(len(counts), mu.shape[1]).index_add(0, labels, mu)
        means = sums / counts.clamp(min=1)[:, None]
        gaps = mu - means[labels]
        covariance = gaps.T @ gaps / len(mu)
        ridge = _HEAD_RIDGE * covariance.diagonal().mean()
        identity = torch.eye(len(covariance), dtype=mu.dtype, device=mu.device)
        centre = mu.mean(0)
        apart = means - centre
        weight = torch.linalg.solve(covariance + ridge * identity, apart.T).T
        # a class without any input is never answered
        shares = (counts / len(mu)).clamp(min=_NEVER)
        classifier.head.weight.copy_(weight)
        classifier.head.bias.copy_(shares.log() - (weight * (centre + apart / 2)).sum(1))

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        assert classifier.generator is not None  # noqa: S101
        mu = batch.id_outputs.features
        generator = pooled(batch.id_outputs.taps[classifier.generator])
        log_variance = classifier.heads[SPREAD_HEAD](generator).clamp(-_LARGEST_LOG, _LARGEST_LOG)
        z = mu + (log_variance / 2).exp() * torch.randn_like(mu)
        if self.training:
            self.sums = self.sums.index_add(0, batch.labels, z.detach())
            self.counts = self.counts + batch.labels.bincount(minlength=len(self.counts))
        triplet, distancing = self._margins(z, batch.labels)
        kl = self._kl(mu, log_variance, batch.labels)
        return {"triplet": triplet, "distancing": distancing, "kl": kl}

    def _margins(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        distances = self._distances(z)
        same = labels[:, None] == labels
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=z.device)
        # (anchor, positive, negative)
        gaps = self.triplet_margin + distances[:, :, None] - distances[:, None, :]
        wanted = positive[:, :, None] & ~same[:, None, :]
        far = (self.margin - distances)[~same]
        return mean_of_positive(gaps[wanted]), mean_of_positive(far)

    def _distances(self, z: Tensor) -> Tensor:
        """(B, d) -> (B, B)."""
        points = F.normalize(z, dim=1) if self.distance == "unit" else z
        squares = (points[:, None, :] - points[None, :, :]).square().sum(2)
        return squares.clamp(min=_SMALLEST_SQUARE).sqrt() if self.distance == "unit" else squares

    def _kl(self, mu: Tensor, log_variance: Tensor, labels: Tensor) -> Tensor:
        """0 in the first epoch, which has no means yet."""
        if not self.started:
            return mu.sum() * 0
        variance = self.prior_std**2
        squares = (mu - self.class_means[labels]).square()
        per_input = (
            (math.log(variance) - log_variance + (log_variance.exp() + squares) / variance - 1) / 2
        ).mean(1)
        classes, position, counts = labels.unique(return_inverse=True, return_counts=True)
        sums = per_input.new_zeros(len(classes)).index_add(0, position, per_input)
        return (sums / counts).mean()


def mean_of_positive(values: Tensor) -> Tensor:
    """The mean of max(0, v) over those above 0; 0 where there is none."""
    kept = values.relu()
    return kept.sum() / (kept > 0).sum().clamp(min=1)
