"""Parzen repulsion: outliers are pushed away from the ID features, and no outlier class is made.

A soft-contrastive form of outlier exposure (Hendrycks et al. 2018, arXiv:1812.04606), bounded here:
docs/objectives.md has the derivation.

l(z) = LSE_i(-||z - z_i||^2 / 2 rho^2) - log n over ID features z_i is the log of a kernel density.
The loss of an outlier, softplus(l(z) + b), is -log P(outlier | z) of that density against a flat
one at log prior odds b: it is positive, its gradient is a push away from the nearest z_i, and it
vanishes far away.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from training.classifier import Classifier
from training.objectives.protocol import Batch, SoftmaxObjective
from training.outputs import Outputs

# Squared distances of equal float32 points, as a share of their squared length.
_ROUNDING = 1e-6


class ParzenRepulsion(SoftmaxObjective):
    """`form`: `bounded`, as above, or `printed_attracts`.

    The latter is the term as printed, the mean of ||z_id - z_ood||^2 / rho^2 added to the loss: its
    minimum is at coincidence, so it *attracts* outliers to ID.  It is here for the record.

    `normalise`: z / ||z||.  `bandwidth` rho; left out: rho^2 is half the median squared distance
    between ID features of one class, followed by a moving average and never differentiated.
    `odds` b.  `push_id`: ID features move, too.  `queue`: ID features of so many earlier inputs
    are kept as further z_i.
    """

    reference = "arXiv:1812.04606"
    weights: ClassVar = {"cross_entropy": 1.0, "repulsion": 0.5, "id_density": 0.0}
    reads_outliers = True
    comparing = frozenset({"repulsion", "id_density"})
    squared_bandwidth: Tensor
    kept: Tensor

    def __init__(
        self,
        form: str = "bounded",
        normalise: bool = True,
        bandwidth: float | None = None,
        odds: float = 3.0,
        push_id: bool = True,
        queue: int = 0,
        momentum: float = 0.9,
        logit_adjustment: float = 0.0,
    ) -> None:
        super().__init__(logit_adjustment)
        if form not in ("bounded", "printed_attracts"):
            raise ValueError(f"parzen_repulsion: form {form!r}; choose bounded or printed_attracts")
        if bandwidth is not None and bandwidth <= 0:
            raise ValueError(f"parzen_repulsion: bandwidth is {bandwidth}; it must be positive")
        if queue < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"parzen_repulsion: queue {queue}, momentum {momentum}; choose a queue of 0 or "
                "more, a momentum from 0 to below 1"
            )
        self.form, self.normalise, self.odds = form, normalise, odds
        self.fixed = bandwidth is not None
        self.push_id, self.queue, self.momentum = push_id, queue, momentum
        square = torch.tensor(bandwidth**2 if bandwidth is not None else math.nan)
        self.register_buffer("squared_bandwidth", square)
        self.register_buffer("kept", torch.zeros(0, 0))  # earlier z_i (n, D)

    def prepare(self, classifier: Classifier, shares: Tensor) -> None:
        super().prepare(classifier, shares)
        self.squared_bandwidth = self.squared_bandwidth.to(classifier.device)
        dim = classifier.head.in_features
        self.kept = torch.zeros(0, dim, device=classifier.device)

    def start(self, batch: Batch) -> None:
        self._follow(self._points(batch.id_outputs), batch.labels)

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        of_id, of_outliers = self._points(batch.id_outputs), self._points(batch.exposed)
        if self.training:
            self._follow(of_id, batch.labels)
        bank = of_id if self.push_id else of_id.detach()
        bank = torch.cat([bank, self.kept])
        exponents = self._exponents(of_outliers, bank)
        if self.form == "printed_attracts":
            repulsion = -2 * exponents.mean()
        else:
            repulsion = F.softplus(self._log_odds(exponents)).mean()
        terms = {
            "cross_entropy": self.classification(batch.id_outputs.logits, batch.labels),
            "repulsion": repulsion,
            "id_density": self._id_density(of_id, bank),
        }
        if self.training and self.queue:
            self.kept = torch.cat([self.kept, of_id.detach()])[-self.queue :]
        return terms

    def log_odds(self, features: Tensor, of_id: Tensor) -> Tensor:
        """Features (n, D), and those of known ID inputs (m, D) -> l(z) + b (n,): the log odds of
        being ID under the density that this trained with."""
        points, bank = (F.normalize(z, dim=1) if self.normalise else z for z in (features, of_id))
        return self._log_odds(self._exponents(points, bank))

    def _log_odds(self, exponents: Tensor) -> Tensor:
        return torch.logsumexp(exponents, dim=1) - math.log(exponents.shape[1]) + self.odds

    def _id_density(self, of_id: Tensor, bank: Tensor) -> Tensor:
        """mean softplus(-(l(z) + b)) of ID, each feature judged by the others."""
        exponents = self._exponents(of_id, bank)
        itself = torch.eye(len(of_id), len(bank), dtype=torch.bool, device=bank.device)
        exponents = exponents.masked_fill(itself, -torch.inf)
        density = torch.logsumexp(exponents, dim=1) - math.log(max(1, len(bank) - 1))
        return F.softplus(-(density + self.odds)).mean()

    def _points(self, outputs: Outputs) -> Tensor:
        features = outputs.features
        return F.normalize(features, dim=1) if self.normalise else features

    def _exponents(self, points: Tensor, bank: Tensor) -> Tensor:
        """-||z - z_i||^2 / 2 rho^2, (n, m)."""
        known = torch.nan_to_num(self.squared_bandwidth, nan=1.0)  # no pair apart was seen yet
        return -squared_distances(points, bank) / (2 * known)

    @torch.no_grad()
    def _follow(self, points: Tensor, labels: Tensor) -> None:
        """The moving average of the squared bandwidth; a batch without a pair leaves it."""
        if self.fixed:
            return
        same = labels[:, None] == labels
        same &= ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        distances = squared_distances(points, points)[same]
        positive = distances[distances > _ROUNDING * points.square().sum(1).mean()]
        if len(positive) == 0:
            return
        found = positive.median() / 2
        known = self.squared_bandwidth
        share = self.momentum if bool(known.isfinite()) else 0.0
        self.squared_bandwidth = share * torch.nan_to_num(known) + (1 - share) * found


def squared_distances(points: Tensor, bank: Tensor) -> Tensor:
    """(n, D), (m, D) -> (n, m), about the bank's centre: memory for n x m values, not n x m x D."""
    center = bank.detach().mean(0)
    points, bank = points - center, bank - center
    squares = points.square().sum(1)[:, None] + bank.square().sum(1)
    return (squares - 2 * points @ bank.T).clamp(min=0)
