"""Any classifier as a backbone: its named layers are tapped while it runs.

Nothing of the module is rewritten; hooks live for one forward pass only, so that the module can
be trained, copied, saved and exported like any other.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from training.backbones.local_weights import with_versions
from training.outputs import Outputs

TokenRule = Literal["map", "class"]
PENULTIMATE = "penultimate"
# A tap's name becomes part of score names, of which a bundle allows 63 characters.
_TAP_NAME = re.compile(r"[a-z0-9_]{1,40}")
_NAMES_SHOWN = 30


class TappedModule(nn.Module):
    """`module` gives logits (B, K), or an object whose `logits` they are.

    taps     names of layers as in `named_modules()`, in network order; "features.3" becomes the
             tap `features_3`.  Or a mapping from tap name to layer name.
    head     name of the nn.Linear that makes the logits; found where it is not given.  What it
             reads is the last tap, `penultimate`.  Do not tap the layer whose average that is:
             the same numbers twice make covariances singular.
    tokens   what becomes of token sequences (B, T, D): "map" takes them as a map (B, D, T, 1),
             which detectors average over the tokens or flatten; "class" takes the first, (B, D).
    channels_last  maps leave the layers as (B, H, W, C), as in Swin transformers.

    A layer must run exactly once in a forward pass and give one tensor whose first dimension is
    the batch.  ValueError, naming the layer, where that or a name is wrong.
    """

    tap_names: tuple[str, ...]
    penultimate: str = PENULTIMATE

    def __init__(
        self,
        module: nn.Module,
        taps: Sequence[str] | Mapping[str, str],
        head: str | None = None,
        *,
        tokens: TokenRule = "map",
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if tokens not in ("map", "class"):
            raise ValueError(f"tokens {tokens!r}; choose map or class")
        self.module = module
        self.layers = _named_taps(module, taps)  # tap name -> layer name
        self.head_name = linear_head(module) if head is None else head
        if not isinstance(layer_of(module, self.head_name), nn.Linear):
            kind = type(layer_of(module, self.head_name)).__name__
            raise ValueError(
                f"head {self.head_name!r} is a {kind}, not an nn.Linear; "
                f"linear layers: {listed(_linear_layers(module))}"
            )
        for layer in self.layers.values():
            if f"{self.head_name}.".startswith(f"{layer}."):
                raise ValueError(f"tap {layer!r} is or holds the head; its output is the logits")
        self.tokens = tokens
        self.channels_last = channels_last
        self.tap_names = (*self.layers, PENULTIMATE)

    @property
    def head(self) -> nn.Linear:
        layer = self.module.get_submodule(self.head_name)
        assert isinstance(layer, nn.Linear)  # noqa: S101
        return layer

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As nn.Module's, but a file that cannot say its layers' versions will do."""
        return super().load_state_dict(with_versions(self, state_dict), strict, assign)

    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W), normalised -> taps as the layers give them, `penultimate` (B, D) last."""
        calls = _Calls()
        handles = [
            layer_of(self.module, name).register_forward_hook(calls.keep_output(name))
            for name in self.layers.values()
        ]
        handles.append(self.head.register_forward_hook(calls.keep_all(self.head_name)))
        try:
            given = self.module(images)
        finally:
            for handle in handles:
                handle.remove()
        calls.check_order([*self.layers.values(), self.head_name])
        taps = {
            tap: self._as_tap(name, calls.outputs[name], images.shape[0])
            for tap, name in self.layers.items()
        }
        features, logits = calls.head_input, calls.outputs[self.head_name]
        if features is None or features.dim() != 2:
            shape = "no tensor" if features is None else tuple(features.shape)
            raise ValueError(f"head {self.head_name!r} reads {shape}; it must read (B, D)")
        self._check_logits(given, logits)
        return Outputs(taps | {PENULTIMATE: features}, logits, PENULTIMATE)

    def _as_tap(self, name: str, value: Tensor, batch: int) -> Tensor:
        shape = tuple(value.shape)
        if value.dim() not in (2, 3, 4):
            raise ValueError(
                f"layer {name!r} gives {shape}; a tap is (B, D), (B, T, D) or (B, C, H, W)"
            )
        if shape[0] != batch:
            raise ValueError(f"layer {name!r} gives {shape} for a batch of {batch}: tap another")
        if value.dim() == 4:
            return value.permute(0, 3, 1, 2) if self.channels_last else value
        if value.dim() == 3:
            return value[:, 0] if self.tokens == "class" else value.transpose(1, 2).unsqueeze(3)
        return value

    def _check_logits(self, given: Any, logits: Tensor) -> None:
        """What the module gives must be what its head gives, or logits = head(features) fails."""
        result = getattr(given, "logits", given)
        if not isinstance(result, Tensor):
            raise ValueError(
                f"{_kind(self.module)} gives a {_kind(result)}; it must give logits (B, K)"
            )
        # under export tensors have no values to compare; a module is run before it is exported
        if result is logits or torch.compiler.is_exporting():
            return
        if result.shape != logits.shape or not torch.equal(result, logits):
            raise ValueError(
                f"{_kind(self.module)} gives something else than its head {self.head_name!r} "
                "(a softmax after it, or another last layer?); it must give logits, and `head` "
                f"must name the layer that makes them: {listed(_linear_layers(self.module))}"
            )


def linear_head(module: nn.Module) -> str:
    """Name of the last nn.Linear; ValueError if there is none.

    That its output is the logits shows when the module runs: TappedModule then refuses anything
    else.
    """
    found = _linear_layers(module)
    if not found:
        raise ValueError(
            f"{_kind(module)} has no nn.Linear: detectors read logits as a linear layer of "
            "penultimate features; end the network with one"
        )
    return found[-1]


def layer_of(module: nn.Module, name: str) -> nn.Module:
    """The layer of that name; ValueError lists what is near and what there is."""
    layers = dict(module.named_modules(remove_duplicate=False))
    if name and name in layers:
        return layers[name]
    names = [known for known in layers if known]
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    shallow = [known for known in names if known.count(".") < 2]
    hint = f"near: {', '.join(near)}; " if near else ""
    raise ValueError(f"{_kind(module)} has no layer {name!r}; {hint}there are: {listed(shallow)}")


_Hook = Callable[[nn.Module, tuple[Any, ...], Any], None]


class _Calls:
    """What the hooked layers gave in one forward pass, in the order in which they ran."""

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}
        self.head_input: Tensor | None = None

    def keep_output(self, name: str) -> _Hook:
        def hook(_layer: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            if name in self.outputs:
                raise ValueError(
                    f"layer {name!r} runs more than once in a forward pass, so it has no one "
                    "output; tap a layer that runs once"
                )
            if not isinstance(output, Tensor):
                raise ValueError(f"layer {name!r} gives a {_kind(output)}; tap one with a tensor")
            # a copy: an in-place ReLU behind the layer would change what was tapped
            self.outputs[name] = output.clone()

        return hook

    def keep_all(self, name: str) -> _Hook:
        def hook(_layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if name in self.outputs:
                raise ValueError(f"head {name!r} runs more than once in a forward pass")
            self.outputs[name] = output
            self.head_input = inputs[0] if inputs else None

        return hook

    def check_order(self, expected: list[str]) -> None:
        for name in expected:
            if name not in self.outputs:
                raise ValueError(f"layer {name!r} did not run in the forward pass; tap another")
        if list(self.outputs) != expected:
            raise ValueError(f"taps are not in network order, which is {list(self.outputs)[:-1]}")


def _named_taps(module: nn.Module, taps: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Tap name -> layer name, every layer there, every tap name fit for a score's name."""
    if isinstance(taps, Mapping):
        pairs = list(taps.items())
    else:
        pairs = [(re.sub(r"\W", "_", layer).lower(), layer) for layer in taps]
    named: dict[str, str] = {}
    for tap, layer in pairs:
        layer_of(module, layer)
        if tap == PENULTIMATE or tap in named:
            raise ValueError(f"two taps would be called {tap!r}; give the names yourself")
        if not _TAP_NAME.fullmatch(tap):
            raise ValueError(
                f"tap name {tap!r}: 1 to 40 of a-z, 0-9 and _ are allowed; give taps as a table "
                "from tap name to layer name"
            )
        named[tap] = layer
    return named


def _linear_layers(module: nn.Module) -> list[str]:
    """Without the output projection of nn.MultiheadAttention, which is never called."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and not isinstance(layer, NonDynamicallyQuantizableLinear)
    ]


def listed(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
    return ", ".join(shown[:_NAMES_SHOWN]) + more if shown else "none"


def _kind(value: object) -> str:
    return type(value).__name__
