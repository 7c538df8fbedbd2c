"""Where a network drops units: every call of a dropout layer, in the order of the pass.

Nothing of the network is rewritten: hooks live for one pass, as those of a tapped module do.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from training.detectors import FitError

ChannelDropout = nn.Dropout1d | nn.Dropout2d | nn.Dropout3d
Dropout = nn.Dropout | ChannelDropout
_OtherRule = nn.AlphaDropout | nn.FeatureAlphaDropout
# layers that drop inside their own arithmetic, where no hook reaches
_Hidden = nn.MultiheadAttention | nn.RNNBase
# function name -> name and position of its probability
_FUNCTIONS = {
    **dict.fromkeys(
        (
            *("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d"),
            *("feature_dropout", "feature_dropout_", "alpha_dropout", "feature_alpha_dropout"),
        ),
        ("p", 1),
    ),
    "scaled_dot_product_attention": ("dropout_p", 4),
}


@dataclass(frozen=True)
class DropoutCall:
    """One call of a layer; a mask of `shape` (no batch) broadcasts over what it reads."""

    layer: str
    p: float
    shape: tuple[int, ...]


Replacement = Callable[[int, Dropout, Tensor], Tensor]


@contextmanager
def replaced_dropout(network: nn.Module, replacement: Replacement) -> Iterator[list[str]]:
    """Within, dropout layers give replacement(number of the call, layer, what it reads).

    Yields the names of the layers called so far.
    """
    calls: list[str] = []

    def hook_for(name: str, layer: Dropout) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_layer: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
            calls.append(name)
            return replacement(len(calls) - 1, layer, inputs[0])

        return hook

    layers = _dropout_layers(network)
    handles = [layer.register_forward_hook(hook_for(name, layer)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def dropout_calls(network: nn.Module, *arguments: Tensor) -> list[DropoutCall]:
    """Every call in a pass of a network in evaluation mode over these arguments.

    Raises FitError where there is none, or where the network drops what no mask can reach.
    """
    _refuse_hidden(network)
    _refuse_functional(network, arguments)
    found: list[DropoutCall] = []
    layers = _dropout_layers(network)

    def note(number: int, layer: Dropout, given: Tensor) -> Tensor:
        shape = tuple(given.shape[1:])
        if isinstance(layer, ChannelDropout):
            shape = (shape[0], *(1 for _ in shape[1:]))
        found.append(DropoutCall(calls[number], layer.p, shape))
        return given

    with replaced_dropout(network, note) as calls, torch.no_grad():
        network(*arguments)
    for call in found:
        if not call.p < 1:
            raise FitError(f"mc_dropout: layer {call.layer} drops everything (p = {call.p:g})")
    if not found:
        idle = f", and none of {', '.join(layers)} runs in evaluation mode" if layers else ""
        raise FitError(
            "mc_dropout: the network has no dropout layer with p > 0" + idle + ", so all passes "
            "would be the same; set its dropout in backbone_options and train it so, or leave "
            "the detector out"
        )
    return found


def _dropout_layers(network: nn.Module) -> dict[str, Dropout]:
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, Dropout) and layer.p > 0
    }


def _refuse_hidden(network: nn.Module) -> None:
    for name, layer in network.named_modules():
        dropping = isinstance(layer, _Hidden) and layer.dropout > 0
        if dropping or (isinstance(layer, _OtherRule) and layer.p > 0):
            raise FitError(
                f"mc_dropout: layer {name} is a {type(layer).__name__}, whose dropout cannot be "
                "given a mask; nn.Dropout and nn.Dropout1d to 3d can"
            )


def _refuse_functional(network: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    """One pass in training mode, of a copy: batch statistics and generators stay as they are."""
    copied = copy.deepcopy(network).train()
    within = 0

    def enter(_layer: nn.Module, _inputs: Any) -> None:
        nonlocal within
        within += 1

    def leave(_layer: nn.Module, _inputs: Any, _output: Any) -> None:
        nonlocal within
        within -= 1

    for layer in _dropout_layers(copied).values():
        layer.register_forward_pre_hook(enter)
        layer.register_forward_hook(leave)

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            name = getattr(func, "__name__", "")
            if not within and name in _FUNCTIONS:
                key, position = _FUNCTIONS[name]
                p = kwargs.get(key, args[position] if len(args) > position else 0.0)
                if p > 0:
                    raise FitError(
                        f"mc_dropout: {type(network).__name__} calls the function {name} (p = "
                        f"{p:g}) itself; only layers, as nn.Dropout, can be given a mask"
                    )
            return func(*args, **kwargs)

    devices = [a.device for a in arguments[:1] if a.device.type == "cuda"]
    with torch.random.fork_rng(devices=devices), torch.no_grad(), Watch():
        copied(*arguments)
