"""Any classifier of timm, by its name there: `backbone = "timm"`.

    backbone_options = { model = "resnet50", weights = "${MODELS}/r50.pt", taps = ["layer1"] }

Needs the extra `timm`.  timm would also load from a hub; here nothing is downloaded.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from training.backbones.local_weights import classes_in, load_weights
from training.backbones.tapped import TappedModule, TokenRule, linear_head
from training.classifier import Backbone

# What would fetch weights, or is said elsewhere in the config.
_RESERVED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path",
             "cache_dir", "num_classes", "in_chans", "model_name")  # fmt: skip


def timm_model(
    channels: int,
    classes: int | None,
    *,
    model: str,
    taps: Sequence[str] | Mapping[str, str],
    weights: str | None = None,
    fresh_head: bool = False,
    head: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    tokens: TokenRule = "map",
    channels_last: bool = False,
) -> Backbone:
    """`arguments` go to timm's constructor; the rest is TappedModule's.

    `classes` None: as many as the file of weights has.  ValueError where timm, a name, an argument
    or the file of weights is missing or does not fit.
    """
    check_name(model)
    given = dict(arguments or {})
    if reserved := sorted(given.keys() & set(_RESERVED)):
        raise ValueError(
            f"timm: {reserved} cannot be in arguments; `weights` beside `model` is a file, and "
            "classes and channels are those of the data"
        )
    network = _create(model, given | {"in_chans": channels})
    found = linear_head(network)
    if classes is None and weights is not None:
        classes = classes_in(weights, found)
    if classes is not None and network.get_submodule(found).out_features != classes:
        network = _create(model, given | {"in_chans": channels, "num_classes": classes})
    head = linear_head(network) if head is None else head
    if weights is not None:
        load_weights(network, weights, head=head, fresh_head=fresh_head)
    backbone = TappedModule(network, taps, head, tokens=tokens, channels_last=channels_last)
    return cast(Backbone, backbone)


def input_recipe(model: str) -> dict[str, Any]:
    """What timm says of the images its weights of that name were trained on: size, mean, std,
    resize and interpolation as of ImageInput."""
    found = check_name(model).get_pretrained_cfg(model)
    _, height, width = found.input_size
    resize = {"squash": "stretch", "border": "pad"}.get(found.crop_mode, "center_crop")
    known = {"size": (height, width), "mean": tuple(found.mean), "std": tuple(found.std)}
    known["resize"] = resize
    if found.interpolation in ("nearest", "bilinear", "bicubic"):
        known["interpolation"] = found.interpolation
    return known


def check_name(model: str) -> Any:
    """timm's models, where that is one of them; ValueError otherwise."""
    try:
        from timm import models
    except ImportError as exc:
        raise ValueError(
            f"timm:{model} needs the package timm: pip install 'oodscore[timm]'"
        ) from exc
    known = models.list_models(include_tags=False)
    if model.partition(".")[0] not in known:  # a name on a hub is none either
        near = difflib.get_close_matches(model, known, n=5, cutoff=0.3)
        raise ValueError(f"timm has no classifier {model!r}; near: {', '.join(near) or 'none'}")
    return models


def _create(model: str, arguments: Mapping[str, Any]) -> nn.Module:
    import timm

    try:
        return timm.create_model(model, pretrained=False, **arguments)
    except (TypeError, RuntimeError, AssertionError) as exc:
        raise ValueError(f"timm's {model} refuses the arguments: {exc}") from exc
