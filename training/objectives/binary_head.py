"""A head that tells outliers from ID, beside the classes' head; and the information bottleneck.

min H[Y|Z] + beta H[Z|Y] + lambda H[T|Z], where T says whether an input is ID: the first two terms
are the information bottleneck of Kirsch et al. 2020, arXiv:2003.12537, the last one is outlier
exposure by a classifier of T.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.classifier import Classifier
from training.objectives.protocol import Batch, SoftmaxObjective

OUTLIER_HEAD = (
    "outliers"  # in classifier.heads: features (B, D) -> logit of being an outlier (B, 1)
)
_SMALLEST_VARIANCE = 1e-6


class BinaryHead(SoftmaxObjective):
    """Terms: cross_entropy, H[Y|Z]; binary, H[T|Z], of weight lambda; bottleneck, H[Z|Y], beta.

    `head`: `linear`, or `mlp`, one hidden layer of `hidden` units: a head less expressive than
    the question has the network move its features instead.  binary is the mean of ID's and of the
    outliers' means, so the head's logit is that of even prior odds whatever the mixture.
    bottleneck is 1/2 mean log(variance of a feature within a class), of the batch's classes with
    two inputs or more; 0 by default.
    """

    reference = "arXiv:2003.12537"
    weights: ClassVar = {"cross_entropy": 1.0, "binary": 0.5, "bottleneck": 0.0}
    reads_outliers = True
    comparing = frozenset({"bottleneck"})
    heads = (OUTLIER_HEAD,)

    def __init__(
        self, head: str = "linear", hidden: int = 128, logit_adjustment: float = 0.0
    ) -> None:
        super().__init__(logit_adjustment)
        if head not in ("linear", "mlp"):
            raise ValueError(f"binary_head: head {head!r}; choose linear or mlp")
        if hidden < 1:
            raise ValueError(f"binary_head: hidden is {hidden}; at least 1 is needed")
        self.head = head
        self.hidden = hidden

    def prepare(self, classifier: Classifier, shares: Tensor) -> None:
        super().prepare(classifier, shares)
        dim = classifier.head.in_features
        layers: list[nn.Module] = [nn.Linear(dim, 1)]
        if self.head == "mlp":
            layers = [nn.Linear(dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1)]
        classifier.heads[OUTLIER_HEAD] = nn.Sequential(*layers).to(classifier.device)

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        head = classifier.heads[OUTLIER_HEAD]
        of_id = head(batch.id_outputs.features)
        of_outliers = head(batch.exposed.features)
        return {
            "cross_entropy": self.classification(batch.id_outputs.logits, batch.labels),
            "binary": (F.softplus(of_id).mean() + F.softplus(-of_outliers).mean()) / 2,
            "bottleneck": bottleneck(batch.id_outputs.features, batch.labels),
        }


def bottleneck(features: Tensor, labels: Tensor) -> Tensor:
    """Features (B, D), labels (B,) -> 1/2 mean over class and feature of log(variance + 1e-6)."""
    classes, position, counts = labels.unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(classes), features.shape[1]).index_add(0, position, features)
    means = sums / counts[:, None]
    squares = (features - means[position]).square()
    variances = torch.zeros_like(sums).index_add(0, position, squares) / counts[:, None]
    several = counts > 1
    if not bool(several.any()):
        return features.sum() * 0
    return (variances[several] + _SMALLEST_VARIANCE).log().mean() / 2
