"""The study: is an input OOD, is it new, or is it merely between two classes?

Three questions, and a score for each: the OOD density is fitted on labelled ID features alone, the
epistemic density on those of everything that was shown, outliers included, and the softmax says
what is ambiguous.  OOD of a kind that was shown should be OOD and yet known; OOD that nobody has
shown both OOD and new; blends of two classes neither, but of high entropy.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from scipy.stats import rankdata
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from service.bundle import ImageInput
from training.active.by_arm import arms_finished, measure_arms
from training.active.labelled import Features, Knowledge
from training.active.network import Network, Recipe, trained_network
from training.config import Sources
from training.data import ImageSet
from training.data.derived import mixup
from training.data.loaders import ImageLoader
from training.data.roles import load_first
from training.detectors import DETECTORS, Detector
from training.evaluation.metrics import auroc
from training.graph_detectors.mixture import Mixture

ID, AMBIGUOUS, EXPOSED = "id", "ambiguous", "exposed"
OOD_SCORES = ("id_kde", "id_gda")  # of ID alone
EPISTEMIC_SCORES = ("all_kde", "all_mixed")  # of everything that was shown
MUTUAL_INFORMATION = "mutual_information"
_FILE = "disambiguation.toml"
_SPLIT_STREAM, _BLEND_STREAM, _MEMBER_STREAM = 21, 22, 23
_DIGITS = 4
_BANDWIDTHS = np.logspace(-1.5, 0.5, 13)  # of a feature's typical standard deviation
_FOLDS = 5

Scores = dict[str, NDArray[np.float64]]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Section):
    """`exposure`: the objective that reads outliers; none: the networks never see them.
    `options`: of that objective."""

    name: str
    what: str
    exposure: Literal["outlier_exposure", "binary_head", "parzen_repulsion"] | None = None
    options: dict[str, JsonValue] = {}


class Study(_Section):
    """`members`: networks of an ensemble, of which the first one's features are judged.  `exposed`
    and `exposed_test`: OOD of one kind, shown in training and held out; `unseen`: of others."""

    title: str
    members: int = Field(ge=2)
    train_count: int = Field(ge=2)
    exposed_count: int = Field(ge=_FOLDS)
    test_count: int = Field(ge=1)
    input: ImageInput
    recipe: Recipe
    train: Sources
    test: Sources
    exposed: Sources
    exposed_test: Sources
    unseen: dict[str, Sources] = Field(min_length=1)
    arms: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = sorted({ID, AMBIGUOUS, EXPOSED} & set(self.unseen))
        if taken:
            raise ValueError(f"unseen sets are called {taken}, as others are; rename them")
        return self

    def sets(self) -> dict[str, Sources]:
        """Everything that is read."""
        roles = ("train", "test", "exposed", "exposed_test")
        return {role: getattr(self, role) for role in roles} | self.unseen


@dataclass(frozen=True)
class World:
    """One seed's data; `judged`: ID, ambiguous, exposed and unseen sets by name."""

    known: ImageSet
    outliers: ImageSet
    judged: dict[str, ImageSet]


def load_disambiguation() -> Study:
    """The shipped study."""
    file = resources.files("training") / "configs" / "studies" / _FILE
    return Study.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def measure_disambiguation(study: Study, seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """Every arm with every seed -> what study.json holds; written anew after each of them."""
    world_of = worlds(study)
    kept: dict[int, World] = {}

    def measure(arm: Arm, seed: int) -> Mapping[str, Any]:
        if seed not in kept:
            kept.clear()
            kept[seed] = world_of(seed)
        return measure_arm(study, arm, kept[seed], seed)

    return measure_arms(
        study.title, study.arms, seeds, out, lambda arm: _config(study, arm), measure
    )


def disambiguation_finished(study: Study, seeds: Sequence[int], out: Path) -> bool:
    """Whether `out` holds every arm, measured by today's config with these seeds."""
    return arms_finished(study.arms, seeds, out, lambda arm: _config(study, arm))


def _config(study: Study, arm: Arm) -> dict[str, Any]:
    shared = study.model_dump(mode="json", exclude={"arms"}, exclude_defaults=True)
    return {"study": shared, "arm": arm.model_dump(mode="json", exclude={"what"})}


def worlds(study: Study) -> Callable[[int], World]:
    """The data, read once -> seed -> what is shown and what is judged.

    Raises DataUnavailable where a set is absent.
    """
    loader = ImageLoader(study.input)
    data = {name: load_first(name, sources, loader) for name, sources in study.sets().items()}

    def thinned(name: str) -> ImageSet:
        given = data[name]
        kept = np.linspace(0, len(given) - 1, min(len(given), study.test_count))
        return given.take(kept.astype(np.int64), name)

    test = thinned("test")
    foreign = {EXPOSED: thinned("exposed_test")} | {name: thinned(name) for name in study.unseen}

    def world(seed: int) -> World:
        rng = np.random.default_rng([seed, _SPLIT_STREAM])
        known = rng.permutation(len(data["train"]))[: study.train_count]
        shown = rng.permutation(len(data["exposed"]))[: study.exposed_count]
        blended = np.random.default_rng([seed, _BLEND_STREAM])
        blends = ImageSet(
            AMBIGUOUS,
            mixup(test.inputs, test.labels, blended),
            test.labels,
            test.class_names,
            "the mean of two of test",
        )
        return World(
            data["train"].take(known, "known"),
            data["exposed"].take(shown, "shown"),
            {ID: test, AMBIGUOUS: blends} | foreign,
        )

    return world


def measure_arm(study: Study, arm: Arm, world: World, seed: int) -> dict[str, Any]:
    """`auroc`: score -> set -> ID against that set; `new`: score -> exposed against all unseen
    ones; `follows`: how the ensemble's mutual information ranks all inputs beside either density,
    Spearman."""
    networks = [
        trained_network(
            study.recipe,
            study.input,
            world.known,
            world.outliers,
            arm.exposure,
            _member_seed(seed, member),
            arm.options,
        )
        for member in range(study.members)
    ]
    judge = Judge.of(networks, world.known, world.outliers)
    scores = {name: judge.scores(data) for name, data in world.judged.items()}
    of_id, exposed = scores[ID], scores[EXPOSED]
    others = [name for name in scores if name != ID]
    unseen = {
        score: np.concatenate([scores[name][score] for name in study.unseen]) for score in of_id
    }
    return {
        "accuracy": round(networks[0].accuracy(world.judged[ID]), _DIGITS),
        "auroc": {
            score: {name: _area(of_id[score], scores[name][score]) for name in others}
            for score in of_id
        },
        "new": {score: _area(exposed[score], unseen[score]) for score in of_id},
        "follows": {
            score: _rank_correlation(scores, MUTUAL_INFORMATION, score)
            for score in (*OOD_SCORES, *EPISTEMIC_SCORES)
        },
    }


def _member_seed(seed: int, member: int) -> int:
    return int(np.random.SeedSequence([seed, _MEMBER_STREAM, member]).generate_state(1)[0])


def _area(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    return round(auroc(low, high), _DIGITS)


def _rank_correlation(scores: Mapping[str, Scores], one: str, other: str) -> float:
    """Over the inputs of all sets together."""
    pairs = [np.concatenate([found[name] for found in scores.values()]) for name in (one, other)]
    ranks = [rankdata(values) for values in pairs]
    return round(float(np.corrcoef(ranks)[0, 1]), _DIGITS)


@dataclass(frozen=True)
class Judge:
    """An ensemble, and what was fitted to its first network's features."""

    networks: Sequence[Network]
    knowledge: Knowledge
    gaussians: Detector
    outliers: KernelDensity  # of features (n, D)

    @classmethod
    def of(cls, networks: Sequence[Network], known: ImageSet, outliers: ImageSet) -> Self:
        """FitError where the features of `known` are too few or all the same."""
        first = networks[0]
        of_id, shown = first.features(known), first.features(outliers)
        labels = torch.from_numpy(known.labels)
        gaussians = DETECTORS["gda"]()
        gaussians.prepare(first.classifier)
        gaussians.observe(of_id.outputs(), labels)
        gaussians.finish()
        knowledge = Knowledge.of(first.classifier, of_id, labels, shown)
        return cls(networks, knowledge, gaussians, _parzen(shown.values.double().numpy()))

    @torch.no_grad()
    def scores(self, data: ImageSet) -> Scores:
        """Name -> (n,), higher = more of what it measures; nats."""
        every = [network.features(data) for network in self.networks]
        features = every[0]
        logits = torch.stack([each.logits for each in every])
        alone, mixture = Mixture.of(logits[:1]), Mixture.of(logits)
        return {
            "entropy": alone.entropy().double().numpy(),
            "id_kde": self.knowledge.ood_score(features),
            "id_gda": self._of_gaussians(features),
            "all_kde": self.knowledge.epistemic_score(features),
            "all_mixed": self._mixed(features),
            "ensemble_entropy": mixture.entropy().double().numpy(),
            MUTUAL_INFORMATION: mixture.mutual_information().double().numpy(),
        }

    def _of_gaussians(self, features: Features) -> NDArray[np.float64]:
        (values,) = self.gaussians(features.outputs()).values()
        return values.double().numpy()

    def _mixed(self, features: Features) -> NDArray[np.float64]:
        """-log of half the Gaussians of ID and half the Parzen density of the outliers."""
        of_outliers = self.outliers.score_samples(features.values.double().numpy())
        return np.log(2) - np.logaddexp(-self._of_gaussians(features), of_outliers)


def _parzen(features: NDArray[np.float64]) -> KernelDensity:
    """Features (n, D) -> their kernel density, the bandwidth likeliest in cross-validation."""
    typical = float(np.sqrt(features.var(0).mean()))
    grid = {"bandwidth": typical * _BANDWIDTHS}
    search = GridSearchCV(KernelDensity(), grid, cv=_FOLDS).fit(features)
    return search.best_estimator_
