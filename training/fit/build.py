"""What `oodscore-train fit` is asked for -> the run config that does it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from service.bundle import ImageInput, TextInput
from training.backbones.given_files import tap_names
from training.backbones.graph_model import GraphModel
from training.backbones.hf_classifier import HuggingFaceClassifier
from training.backbones.layers import Layer, Survey, TapChoice, choose_taps, survey
from training.backbones.onnx_model import OnnxModel
from training.backbones.onnx_text_model import OnnxTextModel
from training.backbones.tapped import TappedModule
from training.classifier import Classifier, TextClassifier, example_inputs
from training.config import DetectorConfig, RunConfig, TextConfig
from training.config_checks import check_padding
from training.data import DataUnavailable, InputSet, Roles, load_roles
from training.data.vocabulary import make_tokenizer
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
_TOKENS_SEEN = 17  # of the texts that a network is looked at with: no other dimension of it
_TEXTS_SEEN = 5
_AS_IN_TRAINING = {
    "image": "the normalisation (--mean, --std) and the size (--size) those",
    "text": "and is the tokenizer that",
}


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
    if absent := [roles.missing[name] for name in request.ood if name in roles.missing]:
        raise DataUnavailable("; ".join(absent))
    options = _tapped_options(network, roles, request.taps)
    classifier = build_classifier(
        roles.spec,
        network.backbone,
        options,
        len(roles.train_id.class_names),
        tokenizer=roles.tokenizer,
    ).eval()
    if isinstance(classifier, TextClassifier):
        check_padding(classifier, network.said)
    _check_steady(classifier, network)
    sizes = _sizes(classifier)
    classes = len(roles.train_id.class_names)
    if sizes.classes != classes:
        raise ValueError(
            f"{network.said} gives {sizes.classes} logits, the data have {classes} classes; name "
            "all classes of the network in a file, in the order of the logits (--classes)"
        )
    _check_agreement(classifier, roles.train_id, network)
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
    classes = len(network.class_names) or None
    if not network.surveyed:
        return _numbered_layers(_looked_at(network, dict(network.options), classes))
    found, choice = _survey(_untapped(network, classes), network)
    width = max(len(layer.name) for layer in found.layers)
    of_texts = network.modality == "text"
    lines = [_line(layer, choice, width, of_texts) for layer in found.layers]
    head = f"{found.head:{width}}  head: {found.features.shape[1]} features -> {found.classes}"
    return [*lines, f"  {head} classes"]


def _numbered_layers(classifier: Classifier) -> list[str]:
    """Those of a Hugging Face classifier, which `--taps` names by their numbers."""
    backbone = classifier.backbone
    assert isinstance(backbone, HuggingFaceClassifier)  # noqa: S101  (the only one not surveyed)
    described = backbone.model.config
    lines = [
        f"{'*' if number in backbone.tapped_layers else ' '} layer{number}  "
        f"tokens x {described.hidden_size}"
        for number in range(1, described.num_hidden_layers + 1)
    ]
    head = backbone.head
    last = f"  {backbone.head_name}  head: {head.in_features} features -> {head.out_features}"
    return [*lines, f"{last} classes"]


def _line(layer: Layer, choice: TapChoice, width: int, of_texts: bool) -> str:
    mark = "*" if layer.name in choice.taps else " "
    sizes = list(map(str, layer.shape))
    if of_texts and len(sizes) == 2:
        sizes[0] = "tokens"
    shape = " x ".join(sizes) or "no tensor"
    why = "" if layer.runs == 1 else f"  (runs {layer.runs} times: cannot be tapped)"
    return f"{mark} {layer.name:{width}}  {layer.kind}, {shape}{why}"


def _tapped_options(network: Network, roles: Roles, taps: Sequence[str] | None) -> dict[str, Any]:
    """The backbone's options with its head and taps named."""
    options = dict(network.options)
    if not network.surveyed:
        return options if taps is None else options | {"layers": _layer_numbers(taps)}
    classes = len(roles.train_id.class_names)
    _, choice = _survey(_untapped(network, classes), network)
    chosen = list(choice.taps if taps is None else taps)
    named = network.backbone in ("graph", "onnx") or max(map(len, chosen), default=0) > _LONGEST
    options |= {"taps": tap_names(chosen) if named else chosen}
    if network.backbone == "onnx" and network.modality == "text":
        options |= {"pooling": "cls" if choice.tokens == "class" else "mean"}
    if network.backbone in ("module", "timm"):
        options |= {"head": choice.head, "tokens": choice.tokens}
        options |= {"channels_last": choice.channels_last}
    say(f"taps: {', '.join(chosen) or 'none'}, and what the head {choice.head!r} reads")
    return options


def _layer_numbers(taps: Sequence[str]) -> list[int]:
    try:
        return [int(tap.removeprefix("layer")) for tap in taps]
    except ValueError as exc:
        raise ValueError(f"--taps names {list(taps)}; numbers of layers are expected") from exc


def _untapped(network: Network, classes: int | None) -> Classifier:
    return _looked_at(network, dict(network.options) | {"taps": []}, classes)


def _looked_at(network: Network, options: dict[str, Any], classes: int | None) -> Classifier:
    """The classifier before data are read."""
    if isinstance(network.form, ImageInput):
        return build_classifier(network.form, network.backbone, options, classes).eval()
    tokenizer, spec = make_tokenizer(network.form, ())
    length = min(_TOKENS_SEEN, spec.max_tokens)
    return build_classifier(spec, network.backbone, options, classes, length, tokenizer).eval()


def _survey(classifier: Classifier, network: Network) -> tuple[Survey, TapChoice]:
    _check_weights(classifier, network)
    backbone = classifier.backbone
    if isinstance(backbone, OnnxTextModel):
        tokens = classifier.noise(_TEXTS_SEEN, torch.Generator().manual_seed(0))
        found = backbone.survey(*classifier.arguments(tokens, tokens))
    else:
        found = _survey_of_images(classifier, network)
    if not found.features.isfinite().all():
        of_texts = network.modality == "text"
        drawn, otherwise = (
            ("tokens", "")
            if of_texts
            else ("pixels", ", or --mean and --std are not those of its training")
        )
        raise ValueError(
            f"{network.said}: the features its head reads are NaN or infinite for random {drawn}: "
            f"its weights are broken{otherwise}"
        )
    return found, choose_taps(found)


def _survey_of_images(classifier: Classifier, network: Network) -> Survey:
    images = classifier.continuous(example_inputs(classifier.spec, 2))
    backbone = classifier.backbone
    try:
        if isinstance(backbone, OnnxModel) or isinstance(backbone, GraphModel):  # noqa: SIM101
            return backbone.survey(images)
        assert isinstance(backbone, TappedModule)  # noqa: S101
        return survey(backbone.module, images)
    except ValueError:
        raise
    except Exception as exc:  # onnxruntime and the networks of others have their own
        channels, height, width = images.shape[1:]
        raise ValueError(
            f"{network.said} does not run on images of {height} x {width} pixels and "
            f"{channels} channels: {str(exc).strip().splitlines()[0]} (--size says the size, "
            "as many values as there are channels in --mean and --std)"
        ) from exc


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
def _check_steady(classifier: Classifier, network: Network) -> None:
    """ValueError where the same inputs get other logits the second time."""
    length = min(8, classifier.spec.max_tokens) if isinstance(classifier.spec, TextInput) else 1
    inputs = example_inputs(classifier.spec, 2, length)
    once, again = classifier(inputs).logits, classifier(inputs).logits
    if not torch.allclose(once, again, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ValueError(
            f"{network.said} gives other logits to the same {network.modality}s every time: "
            "dropout or noise that eval() does not switch off, so no score could be repeated; call "
            "functional.dropout with training=self.training, and export in eval() mode"
        )


@torch.no_grad()
def _sizes(classifier: Classifier) -> Sizes:
    length = min(8, classifier.spec.max_tokens) if isinstance(classifier.spec, TextInput) else 1
    outputs = classifier(example_inputs(classifier.spec, 2, length))
    widths = [pooled(tap).shape[1] for tap in outputs.taps.values()]
    return Sizes(outputs.logits.shape[1], outputs.features.shape[1], max(widths), sum(widths))


@torch.no_grad()
def _check_agreement(classifier: Classifier, train: InputSet, network: Network) -> None:
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
            f"{_AS_IN_TRAINING[network.modality]} of its training?"
        )
    say(said)


def _check_names(names: Sequence[str]) -> None:
    known = DETECTORS | GRAPH_DETECTORS
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no detectors {unknown}; choose of {', '.join(sorted(known))}")
    if not names:
        raise ValueError("--detectors names none")
