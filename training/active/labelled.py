"""What the answers so far say about any input: is it ID, and is it like anything seen?

Two densities of a network's penultimate features and a line between them:

OOD score        -log p(z | ID), a Parzen density of the labelled ID features alone
epistemic score  -log p(z), the same density of everything that was looked at, rejected inputs
                 included: an input like a rejected one is OOD, and yet known
P(ID)            logistic regression of ID against rejected features, at even prior odds; or the
                 odds of the Parzen density that the network was trained with

Kirsch & Gal's view of OOD detection and active learning; the densities are training.detectors.kde.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from training.batches import batch_rows
from training.classifier import Classifier
from training.data import InputSet
from training.detectors import DETECTORS, Detector
from training.detectors.vectors import unit_length
from training.objectives.parzen_repulsion import ParzenRepulsion
from training.outputs import Outputs

_INVERSE_PENALTY = 1.0
_LONGEST_FIT = 2000  # steps
_TAP = "features"


@dataclass(frozen=True)
class Features:
    """Penultimate features (n, D) and logits (n, K) of some inputs."""

    values: Tensor
    logits: Tensor

    @classmethod
    def of(cls, parts: Sequence["Features"]) -> "Features":
        """Several, one after another."""
        values = torch.cat([part.values for part in parts])
        return cls(values, torch.cat([part.logits for part in parts]))

    def __len__(self) -> int:
        return len(self.values)

    def joined(self, more: "Features") -> "Features":
        return Features.of([self, more])

    def outputs(self) -> Outputs:
        """As a detector reads them."""
        return Outputs({_TAP: self.values}, self.logits, _TAP)


@torch.no_grad()
def features_of(classifier: Classifier, data: InputSet) -> Features:
    """Every input of a set, on the CPU."""
    parts: list[Features] = []
    size = batch_rows(data.inputs.shape[1:])
    for start in range(0, len(data), size):
        inputs = torch.from_numpy(np.asarray(data.batch(slice(start, start + size))))
        outputs = classifier(inputs.to(classifier.device))
        parts.append(Features(outputs.features.cpu(), outputs.logits.cpu()))
    return Features.of(parts)


@dataclass(frozen=True)
class IdOdds:
    """log P(ID | z) - log P(rejected | z) = weight . z + bias, at even prior odds."""

    weight: NDArray[np.float64]
    bias: float

    @classmethod
    def fit(cls, of_id: Tensor, rejected: Tensor) -> "IdOdds":
        """Features (n, D) and (m, D), m >= 1; both sides weigh the same, whatever n and m are."""
        features = torch.cat([of_id, rejected]).double().numpy()
        center, spread = features.mean(0), features.std(0)
        spread[spread < 1e-3 * spread.max()] = np.inf  # silent features say nothing
        labels = np.repeat([1, 0], [len(of_id), len(rejected)])
        model = LogisticRegression(
            C=_INVERSE_PENALTY, class_weight="balanced", max_iter=_LONGEST_FIT
        ).fit((features - center) / spread, labels)
        weight = model.coef_[0] / spread
        return cls(weight, float(model.intercept_[0] - weight @ center))

    def logits(self, features: Tensor) -> NDArray[np.float64]:
        """Features (n, D) -> log odds of being ID (n,)."""
        return features.double().numpy() @ self.weight + self.bias


@dataclass(frozen=True)
class ParzenOdds:
    """The same log odds out of the density of labelled ID alone: what is far from it is OOD, like
    a rejected input or not."""

    objective: ParzenRepulsion
    of_id: Tensor  # features (m, D)

    @torch.no_grad()
    def logits(self, features: Tensor) -> NDArray[np.float64]:
        """Features (n, D) -> log odds of being ID (n,)."""
        return self.objective.log_odds(features, self.of_id).double().numpy()


@dataclass(frozen=True)
class Knowledge:
    """What was fitted to the answers.  `odds`: None while nothing was rejected."""

    id_density: Detector
    overall_density: Detector
    odds: IdOdds | ParzenOdds | None

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        of_id: Features,
        labels: Tensor,
        rejected: Features | None,
    ) -> "Knowledge":
        """labels (n,) of the ID features; FitError where these are too few or all the same."""
        id_density = DETECTORS["kde"]()
        id_density.prepare(classifier)
        id_density.observe(of_id.outputs(), labels)
        id_density.finish()
        if rejected is None or len(rejected) == 0:
            return cls(id_density, id_density, None)
        overall = DETECTORS["kde_all"]()
        overall.prepare(classifier)
        overall.observe(of_id.outputs(), labels)
        overall.observe_outliers(rejected.outputs())
        overall.finish()
        return cls(id_density, overall, IdOdds.fit(of_id.values, rejected.values))

    def ood_score(self, features: Features) -> NDArray[np.float64]:
        """-log p(z | ID), higher = more OOD, (n,)."""
        return _score(self.id_density, features)

    def epistemic_score(self, features: Features) -> NDArray[np.float64]:
        """-log p(z), higher = less like anything seen, (n,)."""
        return _score(self.overall_density, features)

    def unnormalised(self, features: Features) -> NDArray[np.float64]:
        """-log(n p(z)), n the bank's rows: in units of one kernel's peak."""
        bank = self.overall_density.fitted("bank")
        return self.epistemic_score(features) - math.log(len(bank))

    def points(self, features: Features) -> NDArray[np.float32]:
        """Features in units of the overall density's bandwidth (n, D)."""
        bandwidth = self.overall_density.fitted("bandwidth")
        return (unit_length(features.values) / bandwidth).numpy()

    def id_probability(self, features: Features) -> NDArray[np.float64]:
        """P(ID) (n,); 1 while nothing was rejected."""
        if self.odds is None:
            return np.ones(len(features))
        return expit(self.odds.logits(features.values))


@torch.no_grad()
def _score(detector: Detector, features: Features) -> NDArray[np.float64]:
    (scores,) = detector(features.outputs()).values()
    return scores.double().numpy()
