"""Studies: one base config, several arms that differ in named sections alone, several seeds.

Every arm of a seed sees the same ID inputs in the same order.  What is measured is written after
every arm, so that a study that was cut off goes on where it stopped.
"""

import gc
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.bundle import threshold_at
from training.config import RunConfig
from training.config_checks import check_config
from training.data import DataUnavailable, InputSet, Roles, load_roles
from training.evaluation.by_class import class_thresholds, false_alarms
from training.evaluation.metrics import evaluate_scores
from training.evaluation.open_set import best_macro_f1, macro_f1
from training.export import library_versions
from training.fitting import SIDE_BATCH, SetScores, score_set, torch_network
from training.measures import MEASURES, Measured
from training.optimise import Trained
from training.pipeline import train_and_fit
from training.progress import say
from training.reporting import machine
from training.side_scorer import Scorers
from training.study_file import read_study, write_study

METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_id_side", "fpr95_ood_side")
_TRAIN_SAMPLE = 4000  # train-ID inputs whose scores give the threshold of the open-set papers

# name -> file of this package's configs/studies
STUDIES: dict[str, str] = {
    "binary-head": "binary_head.toml",
    "cifar10-finetunes": "cifar10_finetunes.toml",
    "cifar10-open-set": "cifar10_open_set.toml",
    "cifar10-outliers": "cifar10_outliers.toml",
    "cifar100-outliers": "cifar100_outliers.toml",
    "dose-images": "dose_images.toml",
    "dose-texts": "dose_texts.toml",
    "imbalance": "imbalance.toml",
    "latent-shape": "latent_shape.toml",
    "newsgroups-outliers": "newsgroups_outliers.toml",
    "objectives": "objectives.toml",
    "open-set": "open_set.toml",
    "open-set-losses": "open_set_losses.toml",
}


class Arm(BaseModel):
    """`changes` replace sections of the base; tables inside them are merged key by key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    what: str
    changes: dict[str, Any] = {}


class Study(BaseModel):
    """`limit`: of every set at most so many inputs are scored, taken evenly.  `measures`: of
    training.measures, what is measured of each network beside its detectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    limit: int = Field(default=5000, ge=100)
    measures: tuple[str, ...] = ()
    base: dict[str, Any]
    arms: tuple[Arm, ...] = Field(min_length=1)

    def config(self, arm: Arm, seed: int) -> RunConfig:
        """With the seed in place of every ${SEED}, as outliers of a generator need that was
        trained on the train-ID of that seed."""
        values = _with_seed(merged(self.base, arm.changes), seed)
        return RunConfig.model_validate(values | {"name": arm.name, "seed": seed})


@dataclass(frozen=True)
class _Known:
    """The roles of the last arm, which the next one mostly shares."""

    key: str
    roles: Roles


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; tables key by key, everything else replaced."""
    found = dict(base)
    for key, value in changes.items():
        known = found.get(key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        found[key] = merged(known, value) if both else value  # pyright: ignore[reportArgumentType]
    return found


def _with_seed(value: Any, seed: int) -> Any:
    if isinstance(value, str):
        return value.replace("${SEED}", str(seed))
    if isinstance(value, Mapping):
        return {key: _with_seed(one, seed) for key, one in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_with_seed(one, seed) for one in cast(list[Any], value)]
    return value


def load_study(name: str) -> Study:
    """ValueError on an unknown name."""
    if name not in STUDIES:
        raise ValueError(f"no study {name!r}; choose of {sorted(STUDIES)}")
    file = resources.files("training") / "configs" / "studies" / STUDIES[name]
    return Study.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))


def run_study(name: str, seeds: tuple[int, ...], runs: Path, out: Path) -> dict[str, Any]:
    """Measure every arm with every seed -> what study.json holds.  ValueError on a wrong name."""
    return measure_study(load_study(name), seeds, runs / name, out)


def measure_study(study: Study, seeds: tuple[int, ...], runs: Path, out: Path) -> dict[str, Any]:
    """`run_study` of any study.  An arm whose outliers are not on this machine is left out, and
    said; DataUnavailable where that leaves none."""
    if not seeds:
        raise ValueError("at least one seed is needed")
    unknown = sorted(set(study.measures) - set(MEASURES))
    if unknown:
        raise ValueError(f"no measures {unknown}; choose of {sorted(MEASURES)}")
    for arm in study.arms:
        check_config(study.config(arm, seeds[0]))
    found = read_study(out)
    found |= {"title": study.title, "libraries": library_versions(), "machine": machine()}
    known: _Known | None = None
    lacking: dict[str, DataUnavailable] = {}
    for seed in seeds:
        for arm in study.arms:
            config = study.config(arm, seed)
            before = found["arms"].get(arm.name, {"by_seed": {}})
            dumped = config.model_dump(mode="json", exclude_defaults=True)
            earlier = before["by_seed"].get(str(seed), {})
            if earlier.get("config") == dumped and set(study.measures) <= set(earlier):
                continue
            say(f"{arm.name}, seed {seed}")
            try:
                known = _roles(config, seed, known)
            except DataUnavailable as exc:
                lacking[arm.name] = exc
                say(f"{arm.name}: left out, {exc}")
                continue
            entry = found["arms"].setdefault(arm.name, before)
            entry["what"] = arm.what
            scorers, trained = train_and_fit(config, known.roles, runs)
            measured = _measure(config, known.roles, scorers, trained, study.limit)
            context = Measured(
                scorers.forward.classifier,
                known.roles,
                study.limit,
                runs / f"reference-seed{seed}.npy",
                first=arm is study.arms[0],
            )
            for name in study.measures:
                measured[name] = MEASURES[name](context)
            entry["by_seed"][str(seed)] = measured | {"config": dumped}
            write_study(out, found)
            gc.collect()
    if len(lacking) == len(study.arms):
        raise next(iter(lacking.values()))
    return found


def study_finished(name: str, seeds: tuple[int, ...], out: Path) -> bool:
    """Whether `out` holds every arm of today's study, measured with these seeds."""
    arms, study = read_study(out)["arms"], load_study(name)
    for arm in study.arms:
        for seed in seeds:
            wanted = study.config(arm, seed).model_dump(mode="json", exclude_defaults=True)
            measured = arms.get(arm.name, {"by_seed": {}})["by_seed"].get(str(seed), {})
            if measured.get("config") != wanted or not set(study.measures) <= set(measured):
                return False
    return True


def _roles(config: RunConfig, seed: int, known: _Known | None) -> _Known:
    parts = (config.data, config.form, config.outliers)
    key = json.dumps([seed, *(p.model_dump(mode="json") if p else None for p in parts)])
    if known is not None and known.key == key:
        return known
    return _Known(key, load_roles(config.data, config.form, seed, config.outliers))


def _measure(
    config: RunConfig, roles: Roles, scorers: Scorers, trained: Trained, limit: int
) -> dict[str, Any]:
    """One arm, one seed."""
    calibration = _scored(scorers, roles.cal_id, limit)
    test_id = _scored(scorers, roles.test_id, limit)
    train = _scored(scorers, roles.train_id, _TRAIN_SAMPLE)
    labels, train_labels = _thinned(roles.test_id, limit), roles.train_id.labels
    predictions = test_id.logits.argmax(1)
    classes = len(roles.train_id.class_names)
    prior = np.bincount(train_labels, minlength=classes) / len(train_labels)
    recalls = [float((predictions == labels)[labels == c].mean()) for c in range(classes)]
    found: dict[str, Any] = {
        "accuracy": float((predictions == labels).mean()),
        "recalls": recalls,
        "prior_drift": float(np.abs(_softmax(calibration.logits).mean(0) - prior).sum()),
        "seconds": round(trained.seconds, 1),
        "loss": trained.losses[-1],
        "counts": roles.counts(),
        "commit": machine()["commit"],
        "metrics": {},
        "open_set": {},
        "false_alarms": {},
    }
    acceptance = config.id_acceptance
    for detector, scores in calibration.scores.items():
        own = class_thresholds(scores, calibration.logits.argmax(1), classes, acceptance)
        pooled = np.full(classes, threshold_at(np.sort(scores), acceptance))
        found["false_alarms"][detector] = {
            "pooled": false_alarms(test_id.scores[detector], predictions, labels, pooled),
            "by_class": false_alarms(test_id.scores[detector], predictions, labels, own),
        }
    for name, data in roles.test_ood.items():
        ood = _scored(scorers, data, limit)
        metrics = found["metrics"][name] = {}
        f1 = found["open_set"][name] = {}
        for detector, scores in ood.scores.items():
            thresholds = {
                "cal": threshold_at(np.sort(calibration.scores[detector]), acceptance),
                "train": float(np.quantile(train.scores[detector], acceptance)),
            }
            id_scores = test_id.scores[detector]
            result = evaluate_scores(id_scores, scores, thresholds["cal"])
            metrics[detector] = {metric: getattr(result, metric) for metric in METRICS}
            f1[detector] = {
                source: macro_f1(
                    labels,
                    predictions,
                    id_scores > threshold,
                    ood.logits.argmax(1),
                    scores > threshold,
                    classes,
                )
                for source, threshold in thresholds.items()
            }
            f1[detector]["best"] = best_macro_f1(
                labels, predictions, id_scores, ood.logits.argmax(1), scores, classes
            )
    return found


def _scored(scorers: Scorers, data: InputSet, limit: int) -> SetScores:
    """Scores of every graph, on the same inputs."""
    found = score_set(torch_network(scorers.forward), data, limit)
    for side in scorers.sides:
        scores = score_set(torch_network(side), data, limit, batch=SIDE_BATCH).scores
        found.scores.update(scores)
    return found


def _thinned(data: InputSet, limit: int) -> NDArray[np.int64]:
    """Labels of the inputs that `score_set` scores."""
    if len(data) <= limit:
        return data.labels
    return data.labels[np.linspace(0, len(data) - 1, limit).astype(np.int64)]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
