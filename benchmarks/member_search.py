"""Which scores, combined how?  Searches that read proxy outliers and ID data, nothing else.

A candidate is judged by its AUROC of cal-ID against every kind of proxy outlier.  A *strategy*
is a rule and a way to search members; it is judged leave-one-kind-out: it searches on all kinds
but one and is measured on that one, so that its figure says how well its choices transfer to
outliers that it has not seen.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.combiners import RULES, Ensemble, Rule, Standardisation, learn_weights

Columns = Mapping[str, NDArray[np.float32]]
Search = Literal["single", "pair", "greedy", "all", "fixed"]
LayerWeights = Literal["equal", "learnt"]
LEARNT = "_learnt"
CAL_ID = "cal_id"
_MOST_GREEDY = 5
TIE = 0.001  # AUROC: less than this is no gain
_SIMPLEST_FIRST: tuple[Search, ...] = ("single", "pair", "greedy", "all", "fixed")


@dataclass(frozen=True)
class SeedScores:
    """Score name -> (n,), of one network: dev-ID, cal-ID, and every kind of proxy outlier."""

    dev_id: Columns
    cal_id: Columns
    proxies: Mapping[str, Columns]

    def scored_by(self, ensemble: Ensemble) -> "SeedScores":
        """The same sets, with the ensemble's score beside the others."""

        def more(columns: Columns) -> Columns:
            tensors = {member: torch.from_numpy(columns[member]) for member in ensemble.members}
            return {**columns, ensemble.name: ensemble(tensors).numpy()}

        proxies = {kind: more(columns) for kind, columns in self.proxies.items()}
        return SeedScores(more(self.dev_id), more(self.cal_id), proxies)


@dataclass(frozen=True)
class Strategy:
    """`fixed`: these members, no search."""

    search: Search
    rule: Rule = "mean"
    standardisation: Standardisation = "mad"
    layer_weights: LayerWeights = "equal"
    fixed: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        scale = f" ({self.standardisation})" if RULES[self.rule].target is None else ""
        members = " + ".join(self.fixed) if self.search == "fixed" else self.search
        name = members if self.search == "single" else f"{members}, {self.rule}{scale}"
        return f"{name}, learnt layers" if self.layer_weights == "learnt" else name

    @property
    def complexity(self) -> tuple[int, int, int]:
        """Smaller = simpler: members, layer weights, rule."""
        return (
            _SIMPLEST_FIRST.index(self.search),
            int(self.layer_weights == "learnt"),
            list(RULES).index(self.rule) + 10 * (self.standardisation == "median"),
        )


@dataclass(frozen=True)
class Outcome:
    """`left_out`: kind -> AUROC on it, chosen on the others (mean over seeds); `chosen`: kind ->
    members chosen without it; `members`: chosen on all kinds; `seen`: kind -> AUROC of those."""

    strategy: Strategy
    left_out: dict[str, float]
    chosen: dict[str, tuple[str, ...]]
    members: tuple[str, ...]
    seen: dict[str, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.left_out.values())))

    @property
    def worst(self) -> float:
        return min(self.left_out.values())


class Judge:
    """AUROCs of candidates, remembered.  One `SeedScores` a network.

    layers: name of a layer ensemble with equal weights, already scored -> its members.  Beside
    each, the member `<name>_learnt` has weights learnt on proxies: never on the kind it is
    judged on, nor on the one that is left out.
    """

    def __init__(self, seeds: list[SeedScores], layers: Mapping[str, tuple[str, ...]]) -> None:
        self.kinds = tuple(seeds[0].proxies)
        self._seeds = seeds
        self._learnt = {name + LEARNT: members for name, members in layers.items()}
        self._learnings: dict[tuple[int, str, frozenset[str]], SeedScores] = {}
        self._columns: dict[tuple[int, str, str, frozenset[str]], dict[str, Tensor]] = {}
        self._areas: dict[tuple[object, ...], dict[str, float]] = {}

    def pool(self, weights: LayerWeights) -> tuple[str, ...]:
        """The members a search may take."""
        names = tuple(self._seeds[0].dev_id)
        if weights == "equal":
            return names
        return tuple(n + LEARNT if n + LEARNT in self._learnt else n for n in names)

    def areas(
        self, strategy: Strategy, members: tuple[str, ...], left_out: str | None
    ) -> dict[str, float]:
        """Kind -> AUROC, mean over the networks."""
        found = [self._of_seed(i, strategy, members, left_out) for i in range(len(self._seeds))]
        return {kind: float(np.mean([areas[kind] for areas in found])) for kind in self.kinds}

    def mean(self, strategy: Strategy, members: tuple[str, ...], left_out: str | None) -> float:
        """Over all kinds but the one left out."""
        areas = self.areas(strategy, members, left_out)
        return float(np.mean([area for kind, area in areas.items() if kind != left_out]))

    def _of_seed(
        self, seed: int, strategy: Strategy, members: tuple[str, ...], left_out: str | None
    ) -> dict[str, float]:
        learns = not self._learnt.keys().isdisjoint(members)
        how = (strategy.rule, strategy.standardisation)
        key = (seed, how, frozenset(members), left_out if learns else None)
        if key not in self._areas:
            if learns:
                unseen = frozenset() if left_out is None else frozenset({left_out})
                self._areas[key] = {
                    kind: self._measure(seed, strategy, members, (kind,), unseen | {kind})[kind]
                    for kind in self.kinds
                }
            else:
                self._areas[key] = self._measure(seed, strategy, members, self.kinds, frozenset())
        return self._areas[key]

    def _measure(
        self,
        seed: int,
        strategy: Strategy,
        members: tuple[str, ...],
        kinds: tuple[str, ...],
        unseen: frozenset[str],
    ) -> dict[str, float]:
        """Kind -> AUROC, by members that were learnt without the kinds `unseen`."""
        columns = [self._column(seed, strategy, member, unseen) for member in members]
        weights = torch.full((len(members),), 1 / len(members))

        def combined(part: str) -> NDArray[np.float32]:
            stacked = torch.stack([column[part] for column in columns], dim=1)
            return RULES[strategy.rule].reduce(stacked, weights).numpy()

        id_scores = np.sort(combined(CAL_ID))
        return {kind: sorted_auroc(id_scores, combined(kind)) for kind in kinds}

    def _column(
        self, seed: int, strategy: Strategy, member: str, unseen: frozenset[str]
    ) -> dict[str, Tensor]:
        """One member on one scale, of cal-ID and all kinds."""
        if member not in self._learnt:
            unseen = frozenset()
        target = RULES[strategy.rule].target or strategy.standardisation
        key = (seed, target, member, unseen)
        if key not in self._columns:
            scores = self._scores_of(seed, member, unseen)
            ensemble = Ensemble(member, [member], strategy.rule, strategy.standardisation)
            ensemble.fit(scores.dev_id)
            parts = {CAL_ID: scores.cal_id, **scores.proxies}
            self._columns[key] = {
                part: ensemble.standardised({member: torch.from_numpy(columns[member])})[:, 0]
                for part, columns in parts.items()
            }
        return self._columns[key]

    def _scores_of(self, seed: int, member: str, unseen: frozenset[str]) -> SeedScores:
        """The network's scores, with those of a learnt `member` made for the occasion."""
        base = self._seeds[seed]
        if member not in self._learnt:
            return base
        key = (seed, member, unseen)
        if key not in self._learnings:
            ensemble = Ensemble(member, self._learnt[member]).fit(base.dev_id)
            seen = {kind: scores for kind, scores in base.proxies.items() if kind not in unseen}
            learn_weights(ensemble, base.dev_id, seen)
            self._learnings[key] = base.scored_by(ensemble)
        return self._learnings[key]


def sorted_auroc(id_scores: NDArray[np.float32], ood_scores: NDArray[np.float32]) -> float:
    """ID scores (n,), ascending, against OOD scores (m,): P(OOD > ID) + P(equal) / 2."""
    below = np.searchsorted(id_scores, ood_scores, "left")
    not_above = np.searchsorted(id_scores, ood_scores, "right")
    return float((below + not_above).mean() / (2 * len(id_scores)))


def search(judge: Judge, strategy: Strategy, left_out: str | None) -> tuple[str, ...]:
    """Members that do best on all kinds but `left_out`; the best first where they are found so."""
    pool = judge.pool(strategy.layer_weights)

    def best(candidates: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
        return max(candidates, key=lambda members: judge.mean(strategy, members, left_out))

    match strategy.search:
        case "fixed":
            return strategy.fixed
        case "all":
            return pool
        case "single":
            return best((member,) for member in pool)
        case "pair":
            return best(combinations(pool, 2))
        case "greedy":
            return _greedy(judge, strategy, left_out, best)


def _greedy(
    judge: Judge,
    strategy: Strategy,
    left_out: str | None,
    best: Callable[[Iterable[tuple[str, ...]]], tuple[str, ...]],
) -> tuple[str, ...]:
    """Start with the best single, add what gains most; two at least, then while it gains."""
    pool = judge.pool(strategy.layer_weights)
    members = best((member,) for member in pool)
    while len(members) < _MOST_GREEDY:
        longer = best((*members, member) for member in pool if member not in members)
        gain = judge.mean(strategy, longer, left_out) - judge.mean(strategy, members, left_out)
        if len(members) >= 2 and gain < TIE:
            break
        members = longer
    return members


def evaluate(judge: Judge, strategy: Strategy) -> Outcome:
    """Leave one kind out, for every kind; then choose on all."""
    chosen = {kind: search(judge, strategy, kind) for kind in judge.kinds}
    members = search(judge, strategy, None)
    return Outcome(
        strategy,
        {kind: judge.areas(strategy, chosen[kind], kind)[kind] for kind in judge.kinds},
        chosen,
        members,
        judge.areas(strategy, members, None),
    )


def choose(outcomes: list[Outcome]) -> Outcome:
    """The simplest combination whose mean over left-out kinds is within TIE of the best one's."""
    combined = [o for o in outcomes if o.strategy.search not in ("single", "fixed")]
    best = max(outcome.mean for outcome in combined)
    close = [outcome for outcome in combined if outcome.mean > best - TIE]
    return min(close, key=lambda outcome: (outcome.strategy.complexity, -outcome.mean))
