"""What `oodscore-train fit` is asked for -> the run config that does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from service.bundle import ImageInput
from training.backbones import BACKBONES
from training.backbones.graph_model import GraphModel
from training.backbones.layers import Layer, Survey, TapChoice, choose_taps, survey
from training.backbones.onnx_model import OnnxModel, tap_names
from training.backbones.tapped import TappedModule
from training.classifier import Classifier, ImageClassifier, example_inputs
from training.config import DetectorConfig, RunConfig, TextConfig
from training.data import InputSet, Roles, load_roles
from training.detectors import DETECTORS
from training.fit.choice import check_detectors, combiners_for, default_detectors
from training.fit.needs import Sizes, table
from training.fit.networks import Network
from training.fit.splits import data_config
from training.graph_detectors import GRAPH_DETECTORS
from training.networks import build_classifier
from training.outputs import pooled
from training.progress import say

_CHECKED = 256  # inputs on which labels and predictions are compared
_CHECKED_AT_ONCE = 32
_LONGEST = 40  # a layer's longer name is no tap's


@dataclass(frozen=True)
class FitRequest:
    """`network`: see training.fit.networks; `data`: a folder, a file, or module:name of a Dataset.

    taps None: found; detectors None: chosen by network and data.
    """

    name: str
    network: Network
    data: str
    held_out: str | None = None
    test: str | None = None
    ood: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)  # of a table: text or image, label
    taps: Sequence[str] | None = None
    detectors: Sequence[str] | None = None
    id_acceptance: float = 0.95
    description: str | None = None
    seed: int = 0


def run_config(request: FitRequest) -> tuple[RunConfig, Roles]:
    """The config, and the data it names, read.  ValueError, DataError, DataUnavailable say what
    does not fit."""
    network = request.network
    data = data_config(
        network,
        request.data,
        held_out=request.held_out,
        test=request.test,
        ood=request.ood,
        columns=request.columns,
        id_acceptance=request.id_acceptance,
    )
    roles = load_roles(data, network.form, request.seed)
    options = _tapped_options(network, roles, request.taps)
    classifier = build_classifier(
        roles.spec,
        network.backbone,
        options,
        len(roles.train_id.class_names),
        tokenizer=roles.tokenizer,
    ).eval()
    sizes = _sizes(classifier)
    classes = len(roles.train_id.class_names)
    if sizes.classes != classes:
        raise ValueError(
            f"{network.said} gives {sizes.classes} logits, the data have {classes} classes; name "
            "all classes of the network in a file, in the order of the logits (--classes)"
        )
    _check_agreement(classifier, roles.train_id)
    counts = np.bincount(roles.train_id.labels, minlength=sizes.classes).tolist()
    if request.detectors is None:
        names = default_detectors(sizes, counts)
    else:
        names = list(request.detectors)
        _check_names(names)
        check_detectors(names, sizes, counts)
    for line in table(names, sizes, counts):
        say(line)
    detectors = tuple(DetectorConfig(name=name) for name in names)
    taps = [tap for tap in classifier.tap_names if tap != classifier.penultimate]
    combiners, primary = combiners_for(detectors, taps)
    config = RunConfig(
        name=request.name,
        description=request.description or f"{network.said}, fitted on {roles.train_id.origin}",
        seed=request.seed,
        modality=network.modality,
        backbone=network.backbone,
        backbone_options=options,
        trained=True,
        id_acceptance=request.id_acceptance,
        primary=primary,
        input=network.form if isinstance(network.form, ImageInput) else None,
        text=network.form if isinstance(network.form, TextConfig) else None,
        data=data,
        detectors=detectors,
        combiners=combiners,
    )
    return config, roles


def describe_layers(network: Network) -> list[str]:
    """Every layer up to the head, in the order in which they finish, the proposed taps marked."""
    found, choice = _survey(_untapped(network, len(network.class_names) or None), network)
    width = max(len(layer.name) for layer in found.layers)
    lines = [_line(layer, choice, width) for layer in found.layers]
    head = f"{found.head:{width}}  head: {found.features.shape[1]} features -> {found.classes}"
    return [*lines, f"  {head} classes"]


def _line(layer: Layer, choice: TapChoice, width: int) -> str:
    mark = "*" if layer.name in choice.taps else " "
    shape = " x ".join(map(str, layer.shape)) or "no tensor"
    why = "" if layer.runs == 1 else f"  (runs {layer.runs} times: cannot be tapped)"
    return f"{mark} {layer.name:{width}}  {layer.kind}, {shape}{why}"


def _tapped_options(network: Network, roles: Roles, taps: Sequence[str] | None) -> dict[str, Any]:
    """The backbone's options with its head and taps named."""
    options = dict(network.options)
    if not network.surveyed:
        return options if taps is None else options | {"taps": list(taps)}
    classes = len(roles.train_id.class_names)
    _, choice = _survey(_untapped(network, classes), network)
    chosen = list(choice.taps if taps is None else taps)
    named = network.backbone in ("graph", "onnx") or max(map(len, chosen), default=0) > _LONGEST
    options |= {"taps": tap_names(chosen) if named else chosen}
    if network.backbone in ("module", "timm"):
        options |= {"head": choice.head, "tokens": choice.tokens}
        options |= {"channels_last": choice.channels_last}
    say(f"taps: {', '.join(chosen) or 'none'}, and what the head {choice.head!r} reads")
    return options


def _untapped(network: Network, classes: int | None) -> Classifier:
    assert isinstance(network.form, ImageInput)  # noqa: S101  (texts are tapped by their backbone)
    options = dict(network.options) | {"taps": []}
    backbone = BACKBONES[network.backbone](network.form.channels, classes, **options)
    return ImageClassifier(backbone, network.form).eval()


def _survey(classifier: Classifier, network: Network) -> tuple[Survey, TapChoice]:
    images = classifier.continuous(example_inputs(classifier.spec, 2))
    _check_weights(classifier, network)
    backbone = classifier.backbone
    try:
        if isinstance(backbone, OnnxModel) or isinstance(backbone, GraphModel):  # noqa: SIM101
            found = backbone.survey(images)
        else:
            assert isinstance(backbone, TappedModule)  # noqa: S101
            found = survey(backbone.module, images)
    except ValueError:
        raise
    except Exception as exc:  # onnxruntime and the networks of others have their own
        channels, height, width = images.shape[1:]
        raise ValueError(
            f"{network.said} does not run on images of {height} x {width} pixels and "
            f"{channels} channels: {str(exc).strip().splitlines()[0]} (--size says the size, "
            "as many values as there are channels in --mean and --std)"
        ) from exc
    if not found.features.isfinite().all():
        raise ValueError(
            f"{network.said}: the features its head reads are NaN or infinite for random pixels: "
            "its weights are broken, or --mean and --std are not those of its training"
        )
    return found, choose_taps(found)


def _check_weights(classifier: Classifier, network: Network) -> None:
    """ValueError naming the first tensors that hold NaN or infinity."""
    broken = [name for name, value in classifier.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{network.said}: {len(broken)} tensors of its weights hold NaN or infinite values "
            f"({', '.join(broken[:5])}); its training failed, or the file is damaged: take "
            "weights from before"
        )


@torch.no_grad()
def _sizes(classifier: Classifier) -> Sizes:
    outputs = classifier(example_inputs(classifier.spec, 2, 8))
    widths = [pooled(tap).shape[1] for tap in outputs.taps.values()]
    return Sizes(outputs.logits.shape[1], outputs.features.shape[1], max(widths), sum(widths))


@torch.no_grad()
def _check_agreement(classifier: Classifier, train: InputSet) -> None:
    """ValueError where the network knows no more of the labels than the commonest one."""
    positions = np.unique(np.linspace(0, len(train) - 1, _CHECKED).astype(np.int64))
    right = 0
    for start in range(0, len(positions), _CHECKED_AT_ONCE):
        part = positions[start : start + _CHECKED_AT_ONCE]
        logits = classifier(torch.from_numpy(train.batch(part))).logits
        right += int((logits.argmax(1).numpy() == train.labels[part]).sum())
    commonest = int(np.bincount(train.labels[positions]).max())
    said = f"{right} of {len(positions)} inputs get their own label"
    if right <= commonest:
        raise ValueError(
            f"the network and the data do not fit: {said}, and always answering the commonest "
            f"label would get {commonest}. Are the classes in the order of the logits (--classes), "
            "the normalisation (--mean, --std) and the size (--size) those of its training?"
        )
    say(said)


def _check_names(names: Sequence[str]) -> None:
    known = DETECTORS | GRAPH_DETECTORS
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no detectors {unknown}; choose of {', '.join(sorted(known))}")
    if not names:
        raise ValueError("--detectors names none")
