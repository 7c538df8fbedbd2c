"""One score of several: standardise each member on held-out ID data, weigh, add.

Higher = more OOD.  Equal weights use no OOD data at all.  Learnt weights come from a logistic
regression of ID against *proxy* outliers (Lee et al. 2018, arXiv:1807.03888 used the OOD set
that was then reported; this never does).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor, nn

Rule = Literal["mean", "max"]
Standardisation = Literal["mad", "median"]
Scores = Mapping[str, NDArray[np.float32]]
_MAD_TO_STD = 1.4826
_FEWEST = 19


class EnsembleFitError(Exception):
    """The members' ID scores cannot be standardised; the message names the member."""


class Ensemble(nn.Module):
    """Member scores -> one score.

    standardisation `mad`: (s - median) / (1.4826 MAD); `median`: s / |median|, for distances.
    rule `mean`: weighted mean; `max`: the largest standardised member.
    """

    shift: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(
        self,
        name: str,
        members: Sequence[str],
        rule: Rule = "mean",
        standardisation: Standardisation = "mad",
    ) -> None:
        super().__init__()
        self.name = name
        self.members = tuple(members)
        self.rule: Rule = rule
        self.standardisation: Standardisation = standardisation
        self.proxies: tuple[str, ...] = ()  # named outliers its weights were learnt on
        size = len(self.members)
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.full((size,), torch.nan))
        self.register_buffer("weights", torch.full((size,), 1 / size))

    def fit(self, id_scores: Scores) -> "Ensemble":
        """Standardise on held-out ID scores, name -> (n,).  Weights become equal again."""
        shifts, scales = [], []
        for member in self.members:
            values = np.asarray(id_scores[member], np.float64)
            if len(values) < _FEWEST:
                raise EnsembleFitError(f"{self.name}: {len(values)} ID scores; {_FEWEST} needed")
            median = float(np.median(values))
            spread = _MAD_TO_STD * float(np.median(np.abs(values - median)))
            scale = spread if self.standardisation == "mad" else abs(median)
            if not np.isfinite(scale) or scale <= 0:
                raise EnsembleFitError(f"{self.name}: ID scores of {member} do not vary")
            shifts.append(median if self.standardisation == "mad" else 0.0)
            scales.append(scale)
        self.shift = torch.tensor(shifts, dtype=torch.float32)
        self.scale = torch.tensor(scales, dtype=torch.float32)
        self.weights = torch.full((len(self.members),), 1 / len(self.members))
        self.proxies = ()
        return self

    def hyperparameters(self) -> dict[str, float | int | str]:
        weights = dict(zip(self.members, self.weights.tolist(), strict=True))
        return {
            "rule": self.rule,
            "standardisation": self.standardisation,
            "learnt_on_proxy_outliers": ", ".join(self.proxies) or "none",
            **{f"weight_{member}": round(weight, 6) for member, weight in weights.items()},
        }

    def summary(self) -> str:
        """One sentence for the report."""
        how = "largest" if self.rule == "max" else "mean"
        source = (
            f"weights learnt on proxy outliers ({', '.join(self.proxies)})"
            if self.proxies
            else "equal weights, no OOD data"
        )
        return f"The {how} of standardised {', '.join(self.members)}; {source}."

    def standardised(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Member scores (B,) each -> (B, M)."""
        stacked = torch.stack([scores[member] for member in self.members], dim=1)
        return (stacked - self.shift) / self.scale

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Member scores (B,) each -> the ensemble's score (B,)."""
        standardised = self.standardised(scores)
        if self.rule == "max":
            return standardised.amax(dim=1)
        return (standardised * self.weights).sum(dim=1)


def learn_weights(
    ensemble: Ensemble, id_scores: Scores, outlier_scores: Mapping[str, Scores]
) -> None:
    """Replace equal weights by those of a logistic regression, ID 0 against outliers 1.

    id_scores: member -> (n,); outlier_scores: proxy name -> member -> (n,).  The ridge strength
    is chosen by 5-fold cross-validation on the same two sets; the weights may be negative.  The
    intercept is dropped: it shifts every score alike, and the threshold is calibrated afterwards.
    """

    def table(scores: Scores) -> NDArray[np.float32]:
        tensors = {member: torch.from_numpy(scores[member]) for member in ensemble.members}
        return ensemble.standardised(tensors).numpy()

    id_table = table(id_scores)
    outlier_table = np.concatenate([table(scores) for scores in outlier_scores.values()])
    rows = np.concatenate([id_table, outlier_table])
    targets = np.repeat([0, 1], [len(id_table), len(outlier_table)])
    model = LogisticRegressionCV(
        Cs=10,
        cv=5,
        max_iter=2000,
        scoring="neg_log_loss",
        class_weight="balanced",
        l1_ratios=(0,),  # pyright: ignore[reportArgumentType]  (scikit-learn's stub is behind)
        use_legacy_attributes=False,  # pyright: ignore[reportArgumentType]
    )
    model.fit(rows, targets)
    ensemble.weights = torch.from_numpy(model.coef_[0].astype(np.float32))
    ensemble.proxies = tuple(outlier_scores)
