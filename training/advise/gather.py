"""Inputs -> scores: held-out ID, proxies made of it, given outliers, production."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle import FORWARD, DetectorSpec, ImageInput
from training.advise.records import Role
from training.data import (
    SOURCES,
    DataUnavailable,
    ImageSet,
    InputSet,
    TextLoader,
    TextSet,
    load_roles,
    load_test_id,
    proxy_outliers,
    source_of,
)
from training.data.corruptions import corrupt
from training.data.derived import PROXIES
from training.data.derived_texts import TEXT_PROXIES, NoiseTexts, text_proxy_outliers
from training.data.loaders import ImageLoader, loader_of
from training.data.raw_texts import RawTexts
from training.data.roles import load_first
from training.evaluate import Bundle, form_of
from training.fitting import score_set, score_side
from training.progress import say

FEWEST_ID = 19
_FEWEST_OUTLIERS = 2
SIDE_INPUTS = 200  # of each set, by detectors of several passes
_PROXY_INPUTS = 500  # of each kind
_PROXY_VALUES = 15_000_000  # pixels and channels of one kind: some are made in float64
_CORRUPTIONS = ("gaussian_noise", "contrast", "fog")
_SEVERITY = 5
_SEED = 0
_ORDER_STREAM = 4
_NEEDS_TWO_CLASSES = frozenset({"mixup", "splice"})
CAPTURES = "captures.jsonl"

AnyLoader = ImageLoader | TextLoader


@dataclass(frozen=True)
class Wanted:
    """What was named on the command line; `column`: of tables.  None: the bundle's own test-ID."""

    id_data: str | None = None
    outliers: str | None = None
    production: str | None = None
    column: str | None = None
    limit: int = 2000


@dataclass(frozen=True)
class ScoredSet:
    """scores: detector -> (n,), shorter for one of several passes: those of the first inputs."""

    name: str
    origin: str
    scores: Mapping[str, NDArray[np.float64]]
    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.predicted)


@dataclass(frozen=True)
class Gathered:
    """proxies: input i of each is made of the same ID input; `captures`: production was chosen by
    the service."""

    id_set: ScoredSet
    proxies: tuple[ScoredSet, ...]
    outliers: ScoredSet | None
    production: ScoredSet | None
    captures: bool
    example: NDArray[np.generic]  # (1, ...)
    remarks: tuple[str, ...]

    def evidence(self, role: Role) -> tuple[ScoredSet, ...]:
        """The sets of one role."""
        if role == "proxy":
            return self.proxies
        return () if self.outliers is None else (self.outliers,)


def gather(bundle: Bundle, detectors: Sequence[DetectorSpec], wanted: Wanted) -> Gathered:
    """Read, draw, score.  DataUnavailable where a set is absent, ValueError where one is small."""
    loader = loader_of_bundle(bundle)
    remarks: list[str] = []
    id_inputs = _shuffled(_id_inputs(bundle, loader, wanted, remarks), wanted.limit)
    if len(id_inputs) < FEWEST_ID:
        raise ValueError(
            f"{id_inputs.origin}: {len(id_inputs)} held-out ID {id_inputs.kind}; at least "
            f"{FEWEST_ID} are needed to say anything of acceptance; name more with --id"
        )
    given = _outliers(wanted, loader)
    if given is not None:
        remarks.extend(_shared(id_inputs, given))
    captures, unlabelled = _production(wanted, loader)
    score = _scorer(bundle, detectors)
    id_set = score(id_inputs)
    return Gathered(
        id_set,
        tuple(score(part) for part in _proxies(id_inputs, id_set.predicted, loader, remarks)),
        None if given is None else score(given),
        None if unlabelled is None else score(unlabelled),
        captures,
        id_inputs.batch(_typical(id_inputs)),
        tuple(remarks),
    )


def loader_of_bundle(bundle: Bundle) -> AnyLoader:
    """Reads data as the bundle's inputs."""
    form = form_of(bundle)
    return form if isinstance(form, TextLoader) else loader_of(form)


def _id_inputs(bundle: Bundle, loader: AnyLoader, wanted: Wanted, remarks: list[str]) -> InputSet:
    if wanted.id_data is not None:
        remarks.append(
            "The ID data that were named must be new to the bundle: used for its network, its "
            "statistics or its calibration, they would flatter it."
        )
        found = _read("id", wanted.id_data, loader, wanted)
        return _labelled(found, bundle.manifest.class_names)
    config = bundle.config
    try:
        if isinstance(bundle.manifest.input, ImageInput):
            found = load_test_id(config.data, bundle.manifest.input, config.seed)
        else:
            data = config.data.model_copy(update={"test_ood": {}, "proxy_ood": ()})
            found = load_roles(data, form_of(bundle), config.seed).test_id
    except DataUnavailable as exc:
        raise DataUnavailable(
            f"{exc}. The bundle's own test-ID is not on this machine: name held-out ID data with "
            "--id"
        ) from exc
    return found


def _outliers(wanted: Wanted, loader: AnyLoader) -> InputSet | None:
    if wanted.outliers is None:
        return None
    given = _read("outliers", wanted.outliers, loader, wanted)
    if len(given) < _FEWEST_OUTLIERS:
        raise ValueError(
            f"{wanted.outliers} holds {len(given)} outlier, which says nothing; give at least "
            f"{_FEWEST_OUTLIERS}, better 100"
        )
    return _shuffled(given, wanted.limit)


def _production(wanted: Wanted, loader: AnyLoader) -> tuple[bool, InputSet | None]:
    """Whether they are captures, and the inputs."""
    given = wanted.production
    if given is None:
        return False, None
    captures = _is_captures(Path(given))
    if captures and isinstance(loader, TextLoader) and Path(given).is_dir():
        given = str(Path(given) / CAPTURES)
    return captures, _shuffled(_read("production", given, loader, wanted), wanted.limit)


def _labelled(inputs: InputSet, class_names: tuple[str, ...]) -> InputSet:
    """With the bundle's labels, or without any where the names are not the bundle's classes."""
    if inputs.class_names and set(inputs.class_names) <= set(class_names):
        return inputs.in_classes_of(class_names)
    return replace(inputs, labels=np.full(len(inputs), -1), class_names=class_names)


def _read(name: str, given: str, loader: AnyLoader, wanted: Wanted) -> InputSet:
    columns = {}
    if wanted.column is not None:
        columns = {"text" if isinstance(loader, TextLoader) else "image": wanted.column}
    reader: Any = loader  # whose parts are of its own kind
    return reader.inputs(load_first(name, (source_of(given, columns),), reader))


def _shuffled(inputs: InputSet, limit: int) -> InputSet:
    """At most `limit`, in random order, so that a part of the first ones is a fair draw."""
    order = np.random.default_rng([_SEED, _ORDER_STREAM]).permutation(len(inputs))
    return inputs.take(order[:limit], inputs.name)


def _shared(id_inputs: InputSet, outliers: InputSet) -> list[str]:
    known = set(id_inputs.contents())
    count = sum(content in known for content in outliers.contents())
    if not count:
        return []
    return [f"{count} of the given outliers are, value for value, also held-out ID inputs."]


def _scorer(bundle: Bundle, detectors: Sequence[DetectorSpec]) -> Callable[[InputSet], ScoredSet]:
    graphs = dict.fromkeys(spec.graph for spec in detectors if spec.on_demand)

    def score(data: InputSet) -> ScoredSet:
        forward = score_set(bundle.networks[FORWARD], data)
        found = dict(forward.scores)
        first = data.take(np.arange(min(SIDE_INPUTS, len(data))), data.name)
        for graph in graphs:
            found |= score_side(bundle.networks[graph], first, None).scores
        scores = {spec.name: found[spec.name].astype(np.float64) for spec in detectors}
        for name, values in scores.items():
            if np.isnan(values).any():
                raise ValueError(f"{name} scores NaN on {data.name}; leave it out (--detectors)")
        return ScoredSet(
            data.name, data.origin, scores, forward.logits.argmax(1).astype(np.int64), data.labels
        )

    return score


def _proxies(
    id_inputs: InputSet, predicted: NDArray[np.int64], loader: AnyLoader, remarks: list[str]
) -> list[InputSet]:
    """Outliers made of held-out ID by code, the labels of mixtures being the predicted ones."""
    if isinstance(loader, TextLoader):
        assert isinstance(id_inputs, TextSet)  # noqa: S101
        return _text_proxies(id_inputs, predicted, loader, remarks)
    assert isinstance(id_inputs, ImageSet)  # noqa: S101
    return _image_proxies(id_inputs, predicted, loader.spec)


def _image_proxies(
    images: ImageSet, predicted: NDArray[np.int64], spec: ImageInput
) -> list[InputSet]:
    most = max(2 * FEWEST_ID, _PROXY_VALUES // int(np.prod(spec.shape)))
    count = min(_PROXY_INPUTS, most, len(images))
    part = images.take(np.arange(count), "held-out ID")
    part = replace(part, labels=predicted[:count])
    made = proxy_outliers(part, _kinds(PROXIES, part.labels), _SEED)
    spoilt = [
        ImageSet(
            kind,
            corrupt(np.asarray(part.inputs), kind, _SEVERITY, _SEED),
            np.full(count, -1),
            (),
            f"{kind}, severity {_SEVERITY}",
        )
        for kind in _CORRUPTIONS
    ]
    noise = SOURCES["noise"]("uniform_noise", spec, kind="uniform", count=count)
    return [*made.values(), *spoilt, noise]


def _text_proxies(
    texts: TextSet, predicted: NDArray[np.int64], loader: TextLoader, remarks: list[str]
) -> list[InputSet]:
    """Input i of each of text i, so a kind that loses a text is left out."""
    count = min(_PROXY_INPUTS, len(texts))
    raw = RawTexts("held-out ID", texts.texts[:count], predicted[:count], (), texts.origin)
    made = text_proxy_outliers(raw, _kinds(TEXT_PROXIES, raw.labels), _SEED)
    found = [loader.inputs(part) for part in made.values()]
    remarks.extend(
        f"{part.name}: left out, some of its texts have no token."
        for part in found
        if len(part) < count
    )
    noise = NoiseTexts("noise_words", count, int(np.median(texts.lengths())), _SEED)
    return [*(part for part in found if len(part) == count), loader.inputs(noise)]


def _kinds(known: Iterable[str], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Mixtures of two classes need two."""
    alone = len(np.unique(labels)) < 2
    return tuple(kind for kind in known if not (alone and kind in _NEEDS_TWO_CLASSES))


def _is_captures(path: Path) -> bool:
    """What `oodscore captures export` writes: a list whose lines say detector and p-value."""
    listed = path / CAPTURES if path.is_dir() else path
    if listed.name != CAPTURES or not listed.is_file():
        return False
    first = listed.read_text(encoding="utf-8").partition("\n")[0]
    try:
        row = json.loads(first or "{}")
    except json.JSONDecodeError:
        return False
    found = isinstance(row, dict) and {"detector", "p_value"} <= set(row)
    if found:
        say(f"{path}: captures, which were kept because they look OOD")
    return found


def _typical(inputs: InputSet) -> slice:
    """One input: of texts one of median length."""
    if not isinstance(inputs, TextSet):
        return slice(0, 1)
    lengths = inputs.lengths()
    position = int(np.argsort(lengths, kind="stable")[len(lengths) // 2])
    return slice(position, position + 1)
