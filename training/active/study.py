"""The study: accuracy against queries, from a pool that holds another data set as well.

Every arm of a seed begins with the same labels and draws from the same pool.  What an input of
the pool is, nobody knows but the oracle, who is asked; an answer "OOD" costs a query like any
other.  Rejected inputs leave the pool.  Figures of the pool's contaminants serve the report alone.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from service.bundle import ImageInput
from training.active.acquisition import drawn_by_power, spread_out
from training.active.by_arm import arms_finished, measure_arms
from training.active.labelled import Features, Knowledge, ParzenOdds
from training.active.network import Network, Recipe, Votes, trained_network
from training.config import Sources
from training.data import ImageSet
from training.data.loaders import ImageLoader
from training.data.roles import load_first
from training.evaluation.metrics import auroc
from training.objectives.parzen_repulsion import ParzenRepulsion

_FILE = "active_learning.toml"
_SPLIT_STREAM, _ROUND_STREAM, _DRAW_STREAM = 11, 12, 13
_DIGITS = 4  # of what the JSON holds


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Section):
    """`score` times P(ID) where `id_probability`; `parzen`: by the density that the network was
    trained with.  `exposure`: what rejected inputs serve for in training, a name of the
    objectives; none: they are dropped.  `options`: of that objective."""

    name: str
    what: str
    score: Literal["random", "entropy", "mutual_information", "density"]
    id_probability: bool | Literal["parzen"] = False
    exposure: Literal["outlier_exposure", "binary_head", "parzen_repulsion"] | None = None
    options: dict[str, JsonValue] = {}
    power: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _density_is_trained(self) -> Self:
        if self.id_probability == "parzen" and self.exposure != "parzen_repulsion":
            raise ValueError(
                f'arm {self.name}: id_probability = "parzen" is the density of exposure = '
                f'"parzen_repulsion"; exposure is {self.exposure}'
            )
        return self


class Study(_Section):
    """`initial`: labels to begin with, balanced; `batch`: queries of a round; `queries`: all
    queries, the first labels not counted; `pool_id`, `pool_ood`: inputs of the pool."""

    title: str
    initial: int = Field(ge=2)
    batch: int = Field(ge=1)
    queries: int = Field(ge=1)
    pool_id: int = Field(ge=1)
    pool_ood: int = Field(ge=0)
    test_count: int = Field(ge=1)
    input: ImageInput
    recipe: Recipe
    train: Sources
    contaminant: Sources
    test: Sources
    arms: tuple[Arm, ...] = Field(min_length=1)

    def sets(self) -> dict[str, Sources]:
        """Everything that is read."""
        return {"train": self.train, "contaminant": self.contaminant, "test": self.test}


def load_active_study() -> Study:
    """The shipped study."""
    file = resources.files("training") / "configs" / "studies" / _FILE
    return Study.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class World:
    """One seed's data: first labels, the pool with what only the oracle knows, the test."""

    initial: ImageSet
    pool: ImageSet  # labels: the class, -1 of a contaminant
    test: ImageSet


def measure_active_study(study: Study, seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """Every arm with every seed -> what study.json holds; written anew after each of them."""
    world_of = worlds(study)
    kept: dict[int, World] = {}

    def measure(arm: Arm, seed: int) -> Mapping[str, Any]:
        if seed not in kept:
            kept.clear()
            kept[seed] = world_of(seed)
        return {"rounds": run_arm(study, arm, kept[seed], seed)}

    return measure_arms(
        study.title, study.arms, seeds, out, lambda arm: _config(study, arm), measure
    )


def active_study_finished(study: Study, seeds: Sequence[int], out: Path) -> bool:
    """Whether `out` holds every arm, measured by today's config with these seeds."""
    return arms_finished(study.arms, seeds, out, lambda arm: _config(study, arm))


def _config(study: Study, arm: Arm) -> dict[str, Any]:
    """What a measured seed of an arm says that it was made of."""
    shared = study.model_dump(mode="json", exclude={"arms"}, exclude_defaults=True)
    left_out = {"what"} if arm.options else {"what", "options"}
    return {"study": shared, "arm": arm.model_dump(mode="json", exclude=left_out)}


def worlds(study: Study) -> Callable[[int], World]:
    """The data, read once -> seed -> the first labels, as many of each class; the pool, shuffled.

    Raises DataUnavailable where a set is absent.
    """
    loader = ImageLoader(study.input)
    train, contaminant, test = (
        load_first(name, sources, loader)
        for name, sources in (
            ("train", study.train),
            ("contaminant", study.contaminant),
            ("test", study.test),
        )
    )
    kept = np.linspace(0, len(test) - 1, min(len(test), study.test_count)).astype(np.int64)
    shown = test.take(kept, "test")
    classes = len(train.class_names)

    def world(seed: int) -> World:
        rng = np.random.default_rng([seed, _SPLIT_STREAM])
        order = rng.permutation(len(train))
        labels = train.labels[order]
        each = -(-study.initial // classes)
        of_class = [order[labels == c][:each] for c in range(classes)]
        first = np.stack(of_class, axis=1).ravel()[: study.initial]
        rest = order[~np.isin(order, first)][: study.pool_id]
        others = rng.permutation(len(contaminant))[: study.pool_ood]
        inputs = np.concatenate([train.inputs[rest], contaminant.inputs[others]])
        truth = np.concatenate([train.labels[rest], np.full(len(others), -1)])
        mixed = rng.permutation(len(inputs))
        pool = ImageSet("pool", inputs[mixed], truth[mixed], train.class_names, "pool")
        return World(train.take(first, "initial"), pool, shown)

    return world


def run_arm(study: Study, arm: Arm, world: World, seed: int) -> list[dict[str, Any]]:
    """One record a round, before its batch is asked; the last one asks nothing."""
    pool = world.pool
    known = world.initial
    waiting = np.arange(len(pool))  # positions that nobody has asked about
    rejected = np.zeros(0, np.int64)
    rng = np.random.default_rng([seed, _DRAW_STREAM])
    rounds: list[dict[str, Any]] = []
    asked = 0
    while True:
        outliers = pool.take(rejected, "rejected") if len(rejected) else None
        stream = int(np.random.SeedSequence([seed, _ROUND_STREAM, asked]).generate_state(1)[0])
        network = trained_network(
            study.recipe, study.input, known, outliers, arm.exposure, stream, arm.options
        )
        accuracy = network.accuracy(world.test)
        record: dict[str, Any] = {
            "queries": asked,
            "labels": len(known),
            "rejected": len(rejected),
            "accuracy": round(accuracy, _DIGITS),
        }
        rounds.append(record)
        count = min(study.batch, study.queries - asked, len(waiting))
        if count <= 0:
            return rounds
        scored = _scored(arm, network, pool.take(waiting, "waiting"), known, outliers)
        chosen = waiting[_batch(arm, scored, count, rng)]
        record["auroc"] = scored.areas(pool.labels[waiting] < 0)
        record["contaminants"] = int((pool.labels[chosen] < 0).sum())
        record["asked"] = count
        waiting = waiting[~np.isin(waiting, chosen)]
        answered = chosen[pool.labels[chosen] >= 0]
        rejected = np.concatenate([rejected, chosen[pool.labels[chosen] < 0]])
        if len(answered):
            known = joined(known, pool.take(answered, "answered"))
        asked += count


@dataclass(frozen=True)
class _Scored:
    """What an arm looks at; nothing but the number of inputs where it draws at random."""

    count: int
    features: Features | None = None
    knowledge: Knowledge | None = None
    votes: Votes | None = None

    def areas(self, is_ood: NDArray[np.bool_]) -> dict[str, float]:
        """AUROC of every score that tells OOD; contaminants are OOD."""
        if not is_ood.any() or is_ood.all():
            return {}
        scores: dict[str, NDArray[np.float64]] = {}
        if self.votes is not None:
            scores["entropy"] = self.votes.entropy
            scores["mutual_information"] = self.votes.mutual_information
        if self.knowledge is not None and self.features is not None:
            scores["id_density"] = self.knowledge.ood_score(self.features)
            scores["overall_density"] = self.knowledge.epistemic_score(self.features)
            if self.knowledge.odds is not None:
                scores["id_probability"] = -self.knowledge.odds.logits(self.features.values)
        return {
            name: round(auroc(values[~is_ood], values[is_ood]), _DIGITS)
            for name, values in scores.items()
        }


def _scored(
    arm: Arm, network: Network, waiting: ImageSet, known: ImageSet, outliers: ImageSet | None
) -> _Scored:
    if arm.score == "random":
        return _Scored(len(waiting))
    labels = torch.from_numpy(known.labels)
    rejected = None if outliers is None else network.features(outliers)
    of_id = network.features(known)
    knowledge = Knowledge.of(network.classifier, of_id, labels, rejected)
    if arm.id_probability == "parzen" and isinstance(network.objective, ParzenRepulsion):
        knowledge = replace(knowledge, odds=ParzenOdds(network.objective, of_id.values))
    votes = None if arm.score == "density" else network.votes(waiting)
    return _Scored(len(waiting), network.features(waiting), knowledge, votes)


def _batch(arm: Arm, scored: _Scored, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions among the inputs that wait."""
    if scored.features is None or scored.knowledge is None:
        return rng.permutation(scored.count)[:count]
    knowledge, features = scored.knowledge, scored.features
    worth = np.ones(scored.count)
    if arm.id_probability:
        worth = knowledge.id_probability(features)
    if scored.votes is None:
        unknown, points = knowledge.unnormalised(features), knowledge.points(features)
        return spread_out(unknown, worth, points, count)
    votes = scored.votes
    scores = votes.entropy if arm.score == "entropy" else votes.mutual_information
    return drawn_by_power(scores * worth, count, rng, arm.power)


def joined(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both, one after another."""
    return ImageSet(
        first.name,
        np.concatenate([first.inputs, second.inputs]),
        np.concatenate([first.labels, second.labels]),
        first.class_names,
        first.origin,
    )
