"""Which data plays which part.  The ID roles are disjoint; test-OOD tunes nothing.

train-ID   weights and class statistics
dev-ID     standardisation of ensembles, temperatures, steps of gradient detectors; proxy outliers
           are made from it
cal-ID     thresholds and p-values; nothing is fitted on it
test-ID    reported; the data set's own test part
test-OOD   reported
outliers   trained on by objectives that read them; in none of the sets above
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.bundle import ImageInput, TextInput
from training.config import (
    DataConfig,
    OutliersConfig,
    SourceConfig,
    TextConfig,
    expand_variables,
)
from training.data.image_set import ImageSet
from training.data.input_set import DataError, DataUnavailable, InputSet
from training.data.loaders import ImageLoader, Loader, P, Part, TextLoader, loader_of
from training.data.outliers import drawn, refuse_shared
from training.progress import say

_SPLIT_STREAM = 1  # the split's own random stream, apart from weights and shuffling
_TAIL_STREAM = 3


@dataclass(frozen=True)
class Roles:
    """Every set of one run.  `missing`: test-OOD set -> why it is not here."""

    train_id: InputSet
    dev_id: InputSet
    cal_id: InputSet
    test_id: InputSet
    test_ood: dict[str, InputSet]
    controls: dict[str, InputSet]
    proxies: dict[str, InputSet]
    missing: dict[str, str]
    spec: ImageInput | TextInput  # what a classifier of these inputs reads
    tokenizer: Tokenizer | None  # of texts
    remarks: tuple[str, ...]  # what the reading has to say, for the report
    outliers: InputSet | None = None

    def fingerprints(self) -> dict[str, str]:
        id_sets = {
            "train_id": self.train_id,
            "dev_id": self.dev_id,
            "cal_id": self.cal_id,
            "test_id": self.test_id,
        }
        sets = id_sets | {f"test_ood/{name}": s for name, s in self.test_ood.items()}
        if self.outliers is not None:
            sets["outliers"] = self.outliers
        return {role: part.fingerprint() for role, part in sets.items()}

    def duplicates(self) -> dict[str, int]:
        """Inputs of dev-ID, cal-ID and test-ID that also occur, value for value, in train-ID."""
        seen = set(self.train_id.contents())
        held_out = {"dev-ID": self.dev_id, "cal-ID": self.cal_id, "test-ID": self.test_id}
        return {
            role: sum(given in seen for given in part.contents()) for role, part in held_out.items()
        }

    def class_counts(self) -> dict[str, int]:
        """train-ID inputs of every class, the most frequent one first."""
        counts = np.bincount(self.train_id.labels, minlength=len(self.train_id.class_names))
        order = np.argsort(-counts, kind="stable")
        return {self.train_id.class_names[index]: int(counts[index]) for index in order}

    def counts(self) -> dict[str, int]:
        """Inputs of every set, by role or name."""
        id_sets = (self.train_id, self.dev_id, self.cal_id)
        sets = {s.name: len(s) for s in id_sets} | {"test_id": len(self.test_id)}
        if self.outliers is not None:
            sets["outliers"] = len(self.outliers)
        return sets | {name: len(s) for name, s in (self.test_ood | self.controls).items()}


def load_roles(
    config: DataConfig,
    form: ImageInput | TextConfig | TextLoader,
    seed: int,
    outliers: OutliersConfig | None = None,
) -> Roles:
    """Read and cut.  DataUnavailable if ID data or outliers are absent, DataError if labels do not
    fit or outliers stand elsewhere, too; an absent OOD set is noted.  A TextLoader brings the
    tokenizer of a bundle."""
    loader = form if isinstance(form, TextLoader) else loader_of(form)
    roles = _cut(config, loader, seed)
    return roles if outliers is None else _exposed(roles, outliers, loader, seed)


def _exposed(roles: Roles, outliers: OutliersConfig, loader: Loader[Any], seed: int) -> Roles:
    """The roles with training outliers beside them."""
    sets = {
        name: replace(loader.inputs(load_first(f"outliers {name}", sources, loader)), name=name)
        for name, sources in outliers.sources.items()
    }
    exposed = drawn(sets, outliers, seed)
    id_sets = (roles.train_id, roles.dev_id, roles.cal_id, roles.test_id)
    refuse_shared(exposed, {part.name: part for part in id_sets} | roles.test_ood)
    return replace(roles, outliers=exposed, remarks=tuple(loader.remarks))


def _cut(config: DataConfig, loader: Loader[Any], seed: int) -> Roles:
    whole = loader.cleaned(load_first("train", config.train, loader))
    if config.class_names:
        whole = whole.in_classes_of(config.class_names)
    _check_labels(whole)
    if config.imbalance_ratio > 1:
        whole = whole.take(long_tailed(whole.labels, config.imbalance_ratio, seed), whole.name)

    def beside(name: str, sources: Sequence[SourceConfig]) -> Any:
        """A part of its own, its labels those of train."""
        part = loader.cleaned(load_first(name, sources, loader))
        if config.class_names:
            part = part.in_classes_of(config.class_names)
        part = loader.aligned(part, whole)
        _check_labels(part)
        return part

    order = _order(config, loader, len(whole), seed)
    raw_train = whole.take(order.train[: config.train_count], "train_id")
    if config.held_out:
        held_out = beside("held_out", config.held_out)
        dev, cal = _order_held_out(config, loader, len(held_out), seed)
    else:
        held_out, dev, cal = whole, order.dev, order.cal
    raw_dev, raw_cal = held_out.take(dev, "dev_id"), held_out.take(cal, "cal_id")
    if config.test_count is None:
        raw_test = beside("test_id", config.test)
    else:
        raw_test = whole.take(order.test, "test_id")
    spec = loader.learn(raw_train)
    test_ood: dict[str, InputSet] = {}
    missing: dict[str, str] = {}
    for name, sources in config.test_ood.items():
        try:
            test_ood[name] = loader.inputs(load_first(name, sources, loader))
        except DataUnavailable as exc:
            missing[name] = str(exc)
            say(f"not evaluated: {exc}")
    controls, proxies = loader.controls(raw_test), loader.proxies(raw_dev, config.proxy_ood)
    return Roles(
        train_id=loader.inputs(raw_train),
        dev_id=loader.inputs(raw_dev),
        cal_id=loader.inputs(raw_cal),
        test_id=loader.inputs(raw_test),
        test_ood=test_ood,
        controls={name: loader.inputs(part) for name, part in controls.items()},
        proxies={name: loader.inputs(part) for name, part in proxies.items()},
        missing=missing,
        spec=spec,
        tokenizer=loader.known[0] if isinstance(loader, TextLoader) and loader.known else None,
        remarks=tuple(loader.remarks),
    )


def load_test_id(config: DataConfig, spec: ImageInput, seed: int) -> ImageSet:
    """Images of test-ID alone, cut out of train only where it must be; errors as `load_roles`."""
    loader = ImageLoader(spec)
    if config.test_count is None:
        test = load_first("test_id", config.test, loader)
    else:
        whole = load_first("train", config.train, loader)
        test = whole.take(_order(config, loader, len(whole), seed).test, "test_id")
    if config.class_names:
        test = test.in_classes_of(config.class_names)
    _check_labels(test)
    return test


def load_first(name: str, sources: Sequence[SourceConfig], loader: Loader[P]) -> P:
    """The first source that is on this machine; DataUnavailable lists why none is."""
    reasons = []
    for source in sources:
        if source.source not in loader.sources:
            raise ValueError(
                f"{name}: no source {source.source!r}; choose of {sorted(loader.sources)}"
            )
        arguments = source.arguments
        if "path" in arguments:
            path = expand_variables(arguments["path"])
            if path is None:
                reasons.append(
                    f"{arguments['path']}: the environment variable is not set; let it name a "
                    "folder that holds the file (docs/benchmarks.md says where data come from)"
                )
                continue
            arguments["path"] = path
        try:
            found = loader.read(name, source.source, arguments)
        except DataUnavailable as exc:
            reasons.append(str(exc))
            continue
        except TypeError as exc:
            raise ValueError(f"{name}: source {source.source}: {exc}") from exc
        say(f"{name}: {len(found)} {loader.kind} from {found.origin}")
        return found
    raise DataUnavailable(f"{name}: no source is available: " + "; ".join(reasons))


@dataclass(frozen=True)
class _Order:
    """Which of train's inputs play which part."""

    dev: NDArray[np.int64]
    cal: NDArray[np.int64]
    test: NDArray[np.int64]
    train: NDArray[np.int64]


def _order(config: DataConfig, loader: Loader[P], count: int, seed: int) -> _Order:
    names = ["test_count"] if config.held_out else ["dev_count", "cal_count", "test_count"]
    counts = [
        0 if config.held_out else config.dev_count,
        0 if config.held_out else config.cal_count,
    ]
    counts.append(config.test_count or 0)
    if count <= 2 * sum(counts):
        raise DataUnavailable(
            f"train has {count} {loader.kind}; {' + '.join(names)} = {sum(counts)} would leave "
            "less than half of them for training"
        )
    return _Order(*np.split(_shuffled(count, seed), np.cumsum(counts)))


def long_tailed(labels: NDArray[np.int64], ratio: float, seed: int) -> NDArray[np.int64]:
    """Labels (N,) -> indices, rising, of inputs that stay: class c of K keeps n ratio^(-c/(K-1)) of
    them, n being the size of the smallest class, and none less than two."""
    rng = np.random.default_rng([seed, _TAIL_STREAM])
    counts = np.bincount(labels)
    kept = []
    for c in range(len(counts)):
        wanted = round(counts.min() * ratio ** (-c / max(1, len(counts) - 1)))
        kept.append(rng.permutation(np.flatnonzero(labels == c))[: max(2, wanted)])
    return np.sort(np.concatenate(kept))


def _order_held_out(
    config: DataConfig, loader: Loader[P], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of held_out's inputs are dev-ID and cal-ID; what is left plays no part."""
    ends = [config.dev_count, config.dev_count + config.cal_count]
    if count < ends[1]:
        raise DataUnavailable(
            f"held_out has {count} {loader.kind}, fewer than dev_count + cal_count = {ends[1]}"
        )
    dev, cal, _ = np.split(_shuffled(count, seed), ends)
    return dev, cal


def _shuffled(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _SPLIT_STREAM]).permutation(count)


def _check_labels(part: Part) -> None:
    without = int(((part.labels < 0) | (part.labels >= len(part.class_names))).sum())
    if without:
        raise DataError(
            f"{part.name}: {without:,} of {len(part):,} inputs have no label among "
            f"{list(part.class_names)[:20]}; files need a sub-folder for each class, a table a "
            "column of labels"
        )
    if len(part.class_names) < 2:
        raise DataError(
            f"{part.name}: has the classes {list(part.class_names)}; a classifier tells at least "
            "two apart"
        )
