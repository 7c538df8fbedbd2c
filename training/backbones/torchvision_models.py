"""Any classifier of torchvision, by its name there: `backbone = "torchvision"`.

    backbone_options = { model = "resnet50", weights = "${MODELS}/resnet50.safetensors" }

Recipes are torchvision's own.  Without `weights` the network starts from random ones.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from training.backbones.local_weights import classes_in, load_weights
from training.backbones.tapped import TappedModule, linear_head
from training.classifier import Backbone

# The last layer of each resolution by family.  The last stage is left out: the head reads its
# average, so it would be counted twice.
_STAGES = {
    "DenseNet": (
        "features.relu0",
        *(f"features.transition{number}" for number in (1, 2, 3)),
    ),
    "GoogLeNet": ("conv1", "conv3", "inception3b", "inception4e"),
    "Inception3": ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e"),
    "MaxVit": ("stem", "blocks.0", "blocks.1", "blocks.2"),
    "RegNet": ("stem", *(f"trunk_output.block{number}" for number in (1, 2, 3))),
    "ResNet": ("relu", "layer1", "layer2", "layer3"),
    "ShuffleNetV2": ("conv1", "stage2", "stage3", "stage4"),
    "SwinTransformer": ("features.1", "features.3", "features.5"),
}
# Families that are one sequence of layers, and its name.
_SEQUENCES = {
    "AlexNet": "features",
    "ConvNeXt": "features",
    "EfficientNet": "features",
    "MNASNet": "layers",
    "MobileNetV2": "features",
    "MobileNetV3": "features",
    "VGG": "features",
}
_CHANNELS = 3
# They warn that the default will change unless told; this is the present default.
_INITIALISED = {"googlenet", "inception_v3"}


def torchvision_model(
    channels: int,
    classes: int | None,
    *,
    model: str,
    weights: str | None = None,
    fresh_head: bool = False,
    taps: Sequence[str] | Mapping[str, str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Backbone:
    """`arguments` go to torchvision's constructor, as image_size = 32 for a vision transformer.
    `classes` None, before data are read: as many as the file of weights has.

    Taps that are not named are the ends of the stages.  Vision transformers are tapped at the
    class token after a quarter, half and three quarters of their layers.  ValueError where a
    name, the channels or the file of weights do not fit.
    """
    models = check_name(model)
    if channels != _CHANNELS:
        raise ValueError(
            f"torchvision's {model} reads {_CHANNELS} channels, not {channels}: set channels = 3 "
            "in [input]; grey images are then read as colour"
        )
    given = dict(arguments or {})
    if reserved := given.keys() & {"weights", "num_classes"}:
        raise ValueError(
            f"torchvision: {sorted(reserved)} cannot be in arguments; `weights` beside `model` is "
            "a file, and the number of classes is the data's"
        )
    if model in _INITIALISED:
        given.setdefault("init_weights", True)
    try:
        if classes is None:
            if weights is None:
                raise ValueError(f"torchvision's {model}: its classes are in no data and no file")
            with torch.device("meta"):
                untrained = models.get_model(model, weights=None, **given)
            classes = classes_in(weights, linear_head(untrained), rename=present_name)
        network = models.get_model(model, weights=None, num_classes=classes, **given)
    except TypeError as exc:
        raise ValueError(f"torchvision's {model} refuses the arguments: {exc}") from exc
    head = linear_head(network)
    if weights is not None:
        load_weights(network, weights, head=head, fresh_head=fresh_head, rename=present_name)
    backbone = TappedModule(
        network,
        default_taps(network) if taps is None else taps,
        head,
        tokens="class" if type(network).__name__ == "VisionTransformer" else "map",
        channels_last=type(network).__name__ == "SwinTransformer",
    )
    return cast(Backbone, backbone)


def check_name(model: str) -> Any:
    """torchvision's models, where that is one of them; ValueError otherwise."""
    from torchvision import models  # a second of import that other backbones need not pay

    known = models.list_models(module=models)
    if model not in known:
        near = difflib.get_close_matches(model, known, n=5, cutoff=0.3) or known
        raise ValueError(f"torchvision has no classifier {model!r}; near: {', '.join(near)}")
    return models


def default_taps(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers that end a stage; ValueError for a family not known here."""
    family = type(network).__name__
    if family in _STAGES:
        return _STAGES[family]
    if family in _SEQUENCES:
        return _before_shrinking(network, _SEQUENCES[family])
    if family == "VisionTransformer":
        prefix = "encoder.layers"
        layers = [name for name, _ in network.get_submodule(prefix).named_children()]
        quarters = sorted({len(layers) * quarter // 4 - 1 for quarter in (1, 2, 3)} - {-1})
        return tuple(f"{prefix}.{layers[index]}" for index in quarters)
    raise ValueError(f"where to tap a {family} is not known; name the layers with taps = [...]")


def _before_shrinking(network: nn.Module, name: str) -> tuple[str, ...]:
    """Members of a sequence whose successor makes the map smaller."""
    children = list(network.get_submodule(name).named_children())
    return tuple(
        f"{name}.{previous}"
        for (previous, _), (_, successor) in itertools.pairwise(children)
        if any(_stride(layer) > 1 for layer in successor.modules())
    )


def present_name(key: str) -> str:
    """torchvision's DenseNet files still say norm.1 where its layers have been norm1 for years."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def _stride(layer: nn.Module) -> int:
    if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
        return 1
    return layer.stride if isinstance(layer.stride, int) else max(layer.stride)
