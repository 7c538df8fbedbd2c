"""A run config is checked before anything is read or trained: no training ends in a late error.

Score names follow from the registries and from the layers of a network that is built for this
alone, with random weights.  Every refusal is a ValueError that names the value, the limit and
what to do.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from service.bundle import FORWARD, ImageInput, TextInput, threshold_at
from service.bundle.manifest import BundleName, DetectorName
from training.backbones.onnx_graph import OnnxGraph
from training.backbones.onnx_text_model import OnnxTextModel
from training.classifier import Classifier, ImageClassifier, InputSpec
from training.combiners import FEWEST_P_VALUES, RULES
from training.config import CombinerConfig, DetectorConfig, RunConfig, TextConfig, WordTokenizer
from training.data.vocabulary import make_tokenizer
from training.detectors import DETECTORS, HEAD_OF, READS_OUTLIERS, Detector, FitError
from training.export import relative_gap
from training.graph_detectors import GRAPH_DETECTORS, GraphDetector
from training.networks import backbones_of, build_classifier
from training.objectives import OBJECTIVES

# Stands for the number of classes, which only the data know.
_CLASSES = 2
_PROBES = 2
# rounding, other kernels for other lengths; a pad that is read moves far more
_PADDING_TOLERANCE = 1e-3
# Networks that bring their number of classes.
_OF_THEIR_OWN = frozenset({"graph", "hf_classifier", "module", "onnx"})

D = TypeVar("D", Detector, GraphDetector)


@dataclass(frozen=True)
class Source:
    """Where a score comes from: a detector or combiner of the config, and the file of its graph."""

    giver: str
    graph: str


def check_config(config: RunConfig) -> None:
    """Raises ValueError at the first thing that would stop the run, or mislead it, later on."""
    _check_registries(config)
    detectors = {d.name: built(d, DETECTORS) for d in config.detectors if d.name in DETECTORS}
    sides = {
        d.name: built(d, GRAPH_DETECTORS) for d in config.detectors if d.name in GRAPH_DETECTORS
    }
    _check_companions(config, detectors, sides)
    classifier = untrained(config)
    _check_objective(config, classifier)
    _check_sizes(config, classifier)
    _check_network(classifier, detectors, sides)
    sources = detector_scores(config, detectors, sides, classifier)
    for combiner in config.combiners:
        _check_combiner(combiner, config, sources)
    _check_published_names(config, sources)
    _check_primary(config, sources)
    _check_acceptance(config, several_passes=bool(sides))


def built(entry: DetectorConfig, registry: dict[str, Callable[..., D]]) -> D:
    """The detector with the config's options; ValueError names both where they do not fit."""
    if "name" in entry.options:
        raise ValueError(f"detector {entry.name}: the option name is not free; leave it out")
    try:
        return registry[entry.name](**entry.options)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"detector {entry.name}: options {entry.options}: {exc}") from exc


def untrained(config: RunConfig) -> Classifier:
    """The run's network with random weights, in evaluation mode; no file of weights is read, but
    for an encoder's folder, which alone says what layers there are."""
    options = {
        name: value
        for name, value in config.backbone_options.items()
        if name not in ("weights", "fresh_head")
    }
    classes = None if config.backbone in _OF_THEIR_OWN else _CLASSES
    try:
        with torch.random.fork_rng():
            classifier = build_classifier(_spec(config.form), config.backbone, options, classes)
    except TypeError as exc:
        raise ValueError(f"backbone {config.backbone}: options {options}: {exc}") from exc
    return classifier.eval()


def _spec(form: ImageInput | TextConfig) -> InputSpec:
    """Of texts, with a vocabulary of one word where it is yet to be made of train-ID."""
    if isinstance(form, ImageInput):
        return form
    repeated = form.tokenizer.min_count if isinstance(form.tokenizer, WordTokenizer) else 1
    return make_tokenizer(form, ["word"] * repeated)[1]


def detector_scores(
    config: RunConfig,
    detectors: dict[str, Detector],
    sides: dict[str, GraphDetector],
    classifier: Classifier,
) -> dict[str, Source]:
    """Score name -> source, for every detector; ValueError where two would share a name."""
    sources: dict[str, Source] = {}
    for entry in config.detectors:
        side = sides.get(entry.name)
        graph = side.graph if side else FORWARD
        detector = side or detectors[entry.name]
        for suffix in detector.suffixes(classifier.tap_names, classifier.penultimate):
            _add(sources, entry.name + suffix, Source(f"detector {entry.name}", graph))
    return sources


def _add(sources: dict[str, Source], name: str, source: Source) -> None:
    if name in sources:
        raise ValueError(
            f"the score {name} would be given by {sources[name].giver} and by {source.giver}; "
            "rename the combiner or the tap, or leave one detector out"
        )
    sources[name] = source


def _check_registries(config: RunConfig) -> None:
    wanted = [
        (config.backbone, backbones_of(config.modality), f"{config.modality} backbone"),
        (config.objective.name, OBJECTIVES, "objective"),
        *((d.name, DETECTORS | GRAPH_DETECTORS, "detector") for d in config.detectors),
    ]
    for name, registry, kind in wanted:
        if name not in registry:
            raise ValueError(f"no {kind} {name!r}; choose of {sorted(registry)}")


def _check_objective(config: RunConfig, classifier: Classifier) -> None:
    """Its options, weights and outliers; whether it can train this network."""
    entry = config.objective
    try:
        objective = OBJECTIVES[entry.name](**entry.options)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"objective {entry.name}: options {entry.options}: {exc}") from exc
    unknown = sorted(set(entry.weights) - set(objective.weights))
    if unknown:
        raise ValueError(
            f"objective {entry.name}: weights {unknown} belong to no term of it; it has "
            f"{sorted(objective.weights)}"
        )
    if not any({**objective.weights, **entry.weights}.values()):
        raise ValueError(f"objective {entry.name}: every weight is 0; nothing would be trained")
    if objective.reads_outliers and config.outliers is None:
        raise ValueError(
            f"objective {entry.name} needs outliers to train on; name some in [outliers.sources]"
        )
    if config.outliers is not None and not objective.reads_outliers:
        raise ValueError(f"objective {entry.name} reads no outliers; leave [outliers] out")
    if config.outliers is None and entry.outlier_fraction is not None:
        raise ValueError(
            f"objective {entry.name}: without [outliers] there is no outlier_fraction; leave it out"
        )
    shares = torch.full((classifier.head.out_features,), 1 / classifier.head.out_features)
    objective.prepare(classifier.eval(), shares)
    for detector in config.detectors:
        needed = HEAD_OF.get(detector.name)
        if needed is not None and needed not in objective.heads:
            raise ValueError(
                f"detector {detector.name} reads the head {needed!r}, which objective "
                f"{entry.name} does not train; choose another objective, or leave it out"
            )
        if detector.name in READS_OUTLIERS and config.outliers is None:
            raise ValueError(
                f"detector {detector.name} is fitted on training outliers, too; name some in "
                "[outliers.sources], or leave it out"
            )


def _check_companions(
    config: RunConfig, detectors: dict[str, Detector], sides: dict[str, GraphDetector]
) -> None:
    """What a detector of several passes needs beside itself."""
    for name, side in sides.items():
        needed = side.builds_on
        if needed is not None and not any(isinstance(d, needed) for d in detectors.values()):
            raise ValueError(
                f"detector {name} builds on the statistics of {needed.__name__.lower()}; add that "
                "detector, or leave this one out"
            )
    if "deep_ensemble" in sides and config.members < 2:
        raise ValueError(
            f"detector deep_ensemble compares networks; members is {config.members}: set it to at "
            "least 2, or leave the detector out"
        )


def _check_sizes(config: RunConfig, classifier: Classifier) -> None:
    """A network of images takes the input's size and, in training, that of every stage."""
    if not isinstance(classifier, ImageClassifier):
        return
    spec = classifier.spec
    sizes = {"input": (spec.height, spec.width)}
    stages = () if config.optimiser is None else config.optimiser.stages
    sizes |= {f"stage at epoch {s.epoch}": (s.side, s.side) for s in stages}
    for what, (height, width) in sizes.items():
        images = torch.zeros(1, spec.channels, height, width)
        try:
            with torch.no_grad():
                classifier.from_normalised(images)
        except (RuntimeError, ValueError) as exc:
            raise ValueError(
                f"{what}: {config.backbone} cannot take {height} x {width} pixels ({exc})"
            ) from exc


@torch.no_grad()
def _check_network(
    classifier: Classifier, detectors: dict[str, Detector], sides: dict[str, GraphDetector]
) -> None:
    """Detectors that this kind of network cannot support, whatever its weights."""
    if isinstance(classifier.backbone, OnnxTextModel):
        check_padding(classifier, classifier.backbone.file)
    if isinstance(classifier.backbone, OnnxGraph) and sides:
        raise ValueError(
            f"detectors {sorted(sides)} need input gradients or several passes with dropout; an "
            "ONNX graph that is run as it is has neither: leave them out, or fit the PyTorch model"
        )
    noise = classifier.noise(_PROBES, torch.Generator().manual_seed(0))
    outputs = classifier(noise)
    try:
        for detector in detectors.values():
            detector.check_network(outputs)
        for side in sides.values():
            side.check_network(classifier, noise)
    except FitError as exc:
        raise ValueError(str(exc)) from exc


@torch.no_grad()
def check_padding(classifier: Classifier, said: str) -> None:
    """ValueError where the logits of a text depend on how much padding stands behind it."""
    spec = classifier.spec
    if not isinstance(spec, TextInput) or spec.max_tokens < 2:
        return
    tokens = classifier.noise(_PROBES, torch.Generator().manual_seed(0))[:, : spec.max_tokens // 2]
    missing = spec.max_tokens - tokens.shape[1]
    padded = classifier(torch.nn.functional.pad(tokens, (0, missing), value=spec.pad_id))
    alone = classifier(tokens)
    named = {"logits": (alone.logits, padded.logits)}
    named |= {tap: (alone.taps[tap], padded.taps[tap]) for tap in alone.taps}
    for name, (values, beside) in named.items():
        gap = relative_gap(values.cpu().numpy(), beside.cpu().numpy())
        if not gap <= _PADDING_TOLERANCE:
            raise ValueError(
                f"{said}: a text of {tokens.shape[1]} tokens gives other {name} with {missing} "
                f"tokens of padding behind it than alone (off by {gap:.0%}): its scores would "
                "depend on what else is in a batch. Export it with a mask among its inputs "
                f"(attention_mask); without one it must itself leave out id {spec.pad_id}, the "
                "tokenizer's padding"
            )


def _check_combiner(
    combiner: CombinerConfig, config: RunConfig, sources: dict[str, Source]
) -> None:
    """Its members exist and stand in one graph; its rule has what it needs.  Adds its score."""
    unknown = [member for member in combiner.members if member not in sources]
    if unknown:
        raise ValueError(
            f"combiner {combiner.name}: nothing before it gives {unknown}; there are "
            f"{sorted(sources)}"
        )
    graphs = {member: sources[member].graph for member in combiner.members}
    if len(set(graphs.values())) > 1:
        places = ", ".join(f"{member} in {graph}" for member, graph in graphs.items())
        raise ValueError(
            f"combiner {combiner.name}: a combiner reads scores of one graph, and these stand in "
            f"several: {places}"
        )
    if combiner.weights == "learnt" and not config.data.proxy_ood:
        raise ValueError(
            f"combiner {combiner.name}: learnt weights need outliers to learn from; name some in "
            "data.proxy_ood, or set weights to equal"
        )
    if RULES[combiner.rule].target is not None and config.data.dev_count < FEWEST_P_VALUES:
        raise ValueError(
            f"combiner {combiner.name}: the rule {combiner.rule} reads p-values on dev-ID; "
            f"data.dev_count is {config.data.dev_count}: set it to at least {FEWEST_P_VALUES}, or "
            "choose mean or max"
        )
    source = Source(f"combiner {combiner.name}", next(iter(graphs.values())))
    _add(sources, combiner.name, source)


def _check_published_names(config: RunConfig, sources: dict[str, Source]) -> None:
    """What a manifest would refuse after the training."""
    _check_pattern("name", [config.name], TypeAdapter(BundleName))
    _check_pattern("score", sources, TypeAdapter(DetectorName))


def _check_pattern(what: str, names: Iterable[str], form: TypeAdapter) -> None:
    for name in names:
        try:
            form.validate_python(name)
        except ValidationError as exc:
            (problem,) = exc.errors(include_url=False)
            raise ValueError(f"{what} {name!r} cannot be published: {problem['msg']}") from exc


def _check_primary(config: RunConfig, sources: dict[str, Source]) -> None:
    forward = sorted(name for name, source in sources.items() if source.graph == FORWARD)
    if config.primary not in sources:
        raise ValueError(
            f"primary {config.primary!r} is no score of this config; choose of {forward}"
        )
    graph = sources[config.primary].graph
    if graph != FORWARD:
        raise ValueError(
            f"primary {config.primary} stands in {graph} and would cost every request several "
            f"passes; choose of {forward}"
        )


def _check_acceptance(config: RunConfig, *, several_passes: bool) -> None:
    """Enough calibration scores for a finite threshold."""
    count, limit = config.data.cal_count, config.several_passes_limit
    sizes = {"data.cal_count": count}
    if several_passes and limit is not None and limit < count:
        sizes["several_passes_limit"] = limit
    acceptance = config.id_acceptance
    for field, size in sizes.items():
        if math.isinf(threshold_at(np.zeros(size), acceptance)):
            needed = math.ceil(acceptance / (1 - acceptance) - 1e-6)
            raise ValueError(
                f"id_acceptance is {acceptance:g}; {field} = {size} calibration inputs can promise "
                f"at most {size / (size + 1):.4g}: ask for less, or set {field} to at least "
                f"{needed}"
            )
