"""One score of several: bring each member to one scale on held-out ID data, then reduce.

Higher = more OOD.  Equal weights use no OOD data at all.  Learnt weights come from a logistic
regression of ID against *proxy* outliers (Lee et al. 2018, arXiv:1807.03888 used the OOD set
that was then reported; this never does).
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor, nn

from training.combiners.ladder import Ladder
from training.combiners.rules import RULES, Rule, Standardisation

Scores = Mapping[str, NDArray[np.float32]]
_MAD_TO_STD = 1.4826
_FEWEST = 19
FEWEST_P_VALUES = 100  # five of them make the tail


class EnsembleFitError(Exception):
    """The members' ID scores cannot be standardised; the message names the member."""


class Ensemble(nn.Module):
    """Member scores -> one score.

    rule: see `RULES`.  standardisation, of the rules that take one, `mad`: (s - median) /
    (1.4826 MAD); `median`: s / |median|, for distances.  The others read p-values: `Ladder`.
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
        if RULES[rule].target is None:
            self.register_buffer("shift", torch.zeros(size))
            self.register_buffer("scale", torch.full((size,), torch.nan))
        else:
            self._keep(Ladder.unfitted(size))
        self.register_buffer("weights", torch.full((size,), 1 / size))

    def fit(self, id_scores: Scores) -> "Ensemble":
        """Standardise on held-out ID scores, name -> (n,).  Weights become equal again."""
        target = RULES[self.rule].target
        fewest = _FEWEST if target is None else FEWEST_P_VALUES
        columns = {member: np.asarray(id_scores[member], np.float64) for member in self.members}
        for member, values in columns.items():
            if len(values) < fewest:
                raise EnsembleFitError(f"{self.name}: {len(values)} ID scores; {fewest} needed")
            if not np.isfinite(values).all():
                raise EnsembleFitError(f"{self.name}: an ID score of {member} is NaN or infinite")
        try:
            if target is None:
                self._fit_shift_and_scale(columns)
            else:
                self._keep(Ladder.fitted(columns, target))
        except ValueError as exc:
            raise EnsembleFitError(f"{self.name}: {exc}") from exc
        self.weights = torch.full((len(self.members),), 1 / len(self.members))
        self.proxies = ()
        return self

    def hyperparameters(self) -> dict[str, float | int | str]:
        weights = dict(zip(self.members, self.weights.tolist(), strict=True))
        return {
            "rule": self.rule,
            "standardisation": RULES[self.rule].scale_name or self.standardisation,
            "learnt_on_proxy_outliers": ", ".join(self.proxies) or "none",
            **{f"weight_{member}": round(weight, 6) for member, weight in weights.items()},
        }

    def summary(self) -> str:
        """One sentence for the report."""
        source = (
            f"weights learnt on proxy outliers ({', '.join(self.proxies)})"
            if self.proxies
            else "equal weights, no OOD data"
        )
        return f"{RULES[self.rule].words} {', '.join(self.members)}; {source}."

    def standardised(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Member scores (B,) each -> (B, M)."""
        row = torch.cat([scores[member] for member in self.members])
        stacked = row.view(len(self.members), -1).T  # in a graph torch.stack is a node a member
        if RULES[self.rule].target is None:
            return (stacked - self.shift) / self.scale
        return Ladder(*(self.get_buffer(field.name) for field in fields(Ladder)))(stacked)

    def forward(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Member scores (B,) each -> the ensemble's score (B,)."""
        return RULES[self.rule].reduce(self.standardised(scores), self.weights)

    def _fit_shift_and_scale(self, columns: Mapping[str, NDArray[np.float64]]) -> None:
        shifts, scales = [], []
        for member, values in columns.items():
            median = float(np.median(values))
            spread = _MAD_TO_STD * float(np.median(np.abs(values - median)))
            scale = spread if self.standardisation == "mad" else abs(median)
            if scale <= 0:
                raise ValueError(f"ID scores of {member} do not vary")
            shifts.append(median if self.standardisation == "mad" else 0.0)
            scales.append(scale)
        self.shift = torch.tensor(shifts, dtype=torch.float32)
        self.scale = torch.tensor(scales, dtype=torch.float32)

    def _keep(self, ladder: Ladder) -> None:
        for field in fields(Ladder):
            self.register_buffer(field.name, getattr(ladder, field.name))


def learn_weights(
    ensemble: Ensemble, id_scores: Scores, outlier_scores: Mapping[str, Scores]
) -> None:
    """Replace equal weights by those of a logistic regression, ID 0 against outliers 1.

    id_scores: member -> (n,); outlier_scores: proxy name -> member -> (n,).  The ridge strength
    is chosen by 5-fold cross-validation on the same two sets; the weights may be negative.  The
    intercept is dropped: it shifts every score alike, and the threshold is calibrated afterwards.
    ValueError for a rule that is no weighted sum.
    """
    if not RULES[ensemble.rule].weighted:
        raise ValueError(f"{ensemble.name}: the rule {ensemble.rule} takes no learnt weights")

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
