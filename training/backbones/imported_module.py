"""A network of your own from an importable factory: `backbone = "module"`.

    [backbone_options]
    factory = "shop.networks:Sorter"
    arguments = { num_classes = 12 }
    taps = ["stem", "blocks.3", "blocks.7"]

A config, and with it the manifest of a bundle, thus names code to run.  Only classes of networks
and functions that declare to return one are called.
"""

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from training.backbones.given_files import mismatch
from training.backbones.local_weights import load_weights
from training.backbones.tapped import TappedModule, TokenRule, linear_head
from training.classifier import Backbone
from training.foreign_code import in_short

_FORM = re.compile(r"(\w+(?:\.\w+)*):(\w+(?:\.\w+)*)")


def imported_module(
    channels: int,
    classes: int | None,
    *,
    factory: str,
    taps: Sequence[str] | Mapping[str, str],
    arguments: Mapping[str, Any] | None = None,
    head: str | None = None,
    weights: str | None = None,
    fresh_head: bool = False,
    tokens: TokenRule = "map",
    channels_last: bool = False,
) -> Backbone:
    """`factory` is called with `arguments` and nothing else; the rest is TappedModule's.

    ValueError where a name, an argument, the weights or the number of classes does not fit;
    `channels` only shows when the network first runs, and `classes` is None before data are read.
    """
    create = _factory(factory)
    try:
        inspect.signature(create).bind(**(arguments or {}))
    except TypeError as exc:
        raise ValueError(f"{factory} refuses the arguments: {exc}") from exc
    try:
        network = create(**(arguments or {}))
    except Exception as exc:  # whatever the code of others raises
        raise ValueError(f"{factory} fails when it is called: {in_short(exc)}") from exc
    if not isinstance(network, nn.Module):
        raise ValueError(f"{factory} gave a {type(network).__name__}, not an nn.Module")
    head = linear_head(network) if head is None else head
    if weights is not None:
        load_weights(network, weights, head=head, fresh_head=fresh_head)
    backbone = TappedModule(network, taps, head, tokens=tokens, channels_last=channels_last)
    if classes is not None and backbone.head.out_features != classes:
        raise ValueError(
            f"{factory}: head {backbone.head_name!r} gives "
            + mismatch(backbone.head.out_features, classes)
        )
    return cast(Backbone, backbone)


def _factory(name: str) -> Callable[..., nn.Module]:
    """ "package.module:callable" -> the callable."""
    form = _FORM.fullmatch(name)
    if form is None:
        raise ValueError(f"factory {name!r} is not of the form package.module:callable")
    module_name, attribute = form.groups()
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as exc:
        raise ValueError(
            f"factory {name}: {module_name} cannot be imported ({exc}); install it or put its "
            "folder on PYTHONPATH"
        ) from exc
    except Exception as exc:  # whatever the code of others raises
        raise ValueError(f"factory {name}: {module_name} fails: {in_short(exc)}") from exc
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"factory {name}: there is no {part}; there are: {_networks(found)}")
        found = getattr(found, part)
    if not _makes_networks(found):
        raise ValueError(
            f"factory {name} is neither a class of networks nor a function that declares to "
            "return one: write `-> nn.Module` behind its arguments"
        )
    return found


def _makes_networks(value: object) -> bool:
    if inspect.isclass(value):
        return issubclass(value, nn.Module)
    if not inspect.isfunction(value):
        return False
    try:
        result = typing.get_type_hints(value).get("return")
    except NameError:  # an annotation that only type checkers can resolve
        return False
    return inspect.isclass(result) and issubclass(result, nn.Module)


def _networks(holder: object) -> str:
    names = [name for name, value in vars(holder).items() if _makes_networks(value)]
    return ", ".join(sorted(names)) or "no networks"
