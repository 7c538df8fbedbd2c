"""Which layers of a network can be tapped, and which of them a detector would want.

One pass over two inputs shows, layer by layer, what it gives and how often it runs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from training.backbones.tapped import TokenRule, listed

_MOST_TAPS = 4
_QUARTERS = (1, 2, 3)
_NUMBER = re.compile(r"\d+")
# they pass on, reshape or pad what the layer before them gave
_IDENTITIES = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity, nn.ConstantPad2d)


@dataclass(frozen=True)
class Layer:
    """`shape`: of what it gives for one input, () for no tensor; `runs` in one forward pass."""

    name: str
    kind: str
    shape: tuple[int, ...]
    runs: int
    identity: bool = False
    depth: int = 0  # layers around it

    @property
    def tappable(self) -> bool:
        """Gives one map, sequence or vector an input."""
        return self.runs == 1 and 1 <= len(self.shape) <= 3


@dataclass(frozen=True)
class TapChoice:
    """What TappedModule is to be given."""

    head: str
    taps: tuple[str, ...]
    tokens: TokenRule = "map"
    channels_last: bool = False


@dataclass(frozen=True)
class Survey:
    """layers: in the order in which they finish, up to the head; head: the linear layer whose
    outputs are the logits; features: what it reads, (B, D)."""

    layers: tuple[Layer, ...]
    head: str
    features: Tensor
    classes: int
    averaged: bool  # the head reads the average of the last map
    square: bool  # of the network's input
    choice: TapChoice | None = None  # where the survey itself sees what to tap


@torch.no_grad()
def survey(module: nn.Module, inputs: Tensor) -> Survey:
    """Run once, in evaluation mode.  ValueError where no linear layer makes the logits."""
    seen: dict[str, list[Any]] = {}
    reads: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(_layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            seen.setdefault(name, []).append(output.clone() if _is_tensor(output) else None)
            if given and _is_tensor(given[0]):
                reads[name] = given[0]

        return keep

    named = [(name, layer) for name, layer in module.named_modules() if name]
    handles = [layer.register_forward_hook(hook(name)) for name, layer in named]
    try:
        given = module.eval()(inputs)
    finally:
        for handle in handles:
            handle.remove()
    logits = getattr(given, "logits", given)
    kinds = dict(named)
    head = _head(kinds, seen, reads, logits, type(module).__name__)
    order = list(seen)
    layers: list[Layer] = []
    for name in order[: order.index(head)]:
        output = seen[name][0]
        identity = isinstance(kinds[name], _IDENTITIES)
        fits = _is_tensor(output) and len(output) == len(inputs)
        shape = tuple(output.shape[1:]) if fits else ()
        kind, runs = type(kinds[name]).__name__, len(seen[name])
        layers.append(Layer(name, kind, shape, runs, identity, name.count(".")))
    maps = [seen[each.name][0] for each in layers if len(each.shape) == 3 and each.runs == 1]
    features = reads[head]
    averaged = any(reads_average(each, features) for each in maps)
    square = inputs.dim() == 4 and inputs.shape[2] == inputs.shape[3]
    return Survey(tuple(layers), head, features, logits.shape[1], averaged, square)


def _head(
    kinds: dict[str, nn.Module],
    seen: dict[str, list[Any]],
    reads: dict[str, Tensor],
    logits: Any,
    network: str,
) -> str:
    if not _is_tensor(logits):
        raise ValueError(
            f"{network} gives a {type(logits).__name__}; a tensor of logits (B, K), or an object "
            "with one in `logits`, is expected: wrap it in a module that returns the logits alone"
        )
    linear = [name for name in seen if isinstance(kinds[name], nn.Linear)]
    for name in reversed(linear):
        output = seen[name][-1]
        if (
            output is not None
            and output.shape == logits.shape
            and torch.equal(output, logits)
            and reads[name].dim() == 2
        ):
            return name
    raise ValueError(
        f"{network}: none of its linear layers gives what the network gives (a softmax behind it, "
        "or a convolution for a head?); a network must give logits (B, K) made by one nn.Linear of "
        f"features (B, D); linear layers: {listed(linear)}"
    )


def choose_taps(found: Survey) -> TapChoice:
    """The survey's own choice, if it has one.  Of maps the last layer of each resolution, but for
    the last one where the head reads its average; of sequences the ends of a quarter, half and
    three quarters of the blocks; of vectors up to three that are neither linear nor what the head
    reads."""
    if found.choice is not None:
        return found.choice
    layers = [each for each in found.layers if each.tappable]
    maps = [each for each in layers if len(each.shape) == 3]
    sequences = [each for each in layers if len(each.shape) == 2]
    if blocks := _blocks(sequences):
        chosen = _quarters(blocks)
        # one token more than a square grid has: the first one is that of the class
        tokens: TokenRule = "class" if _is_square(blocks[0].shape[0] - 1) else "map"
        return TapChoice(found.head, tuple(each.name for each in chosen), tokens)
    if maps:
        last = found.square and _channels_last(maps)
        ends = _stage_ends(maps, last, found.square)
        if found.averaged and len(ends) > 1:
            ends = ends[:-1]
        return TapChoice(
            found.head, tuple(each.name for each in ends[-_MOST_TAPS:]), channels_last=last
        )
    vectors = [
        each
        for each in layers
        if len(each.shape) == 1 and not each.identity and each.kind != "Linear"
    ]
    before = vectors[:-1]  # the last one is what the head reads, or all but that
    return TapChoice(found.head, tuple(each.name for each in before[-3:]))


def _stage_ends(maps: Sequence[Layer], channels_last: bool, square: bool) -> list[Layer]:
    """At each resolution the last of the outermost layers, in network order: what follows it
    there is inside the next stage.  Of a `square` input only square maps are of that layout."""
    ends: dict[tuple[int, ...], Layer] = {}
    for each in maps:
        if each.identity:
            continue
        size = each.shape[:2] if channels_last else each.shape[1:]
        if square and size[0] != size[1]:
            continue
        known = ends.get(size)
        if size[0] * size[1] > 1 and (known is None or each.depth <= known.depth):
            ends.pop(size, None)
            ends[size] = each
    return list(ends.values())


def _channels_last(maps: Sequence[Layer]) -> bool:
    """Of a square input's maps, whether the last dimension is the odd one, in most of them."""
    last = sum(a == b != c for a, b, c in (each.shape for each in maps))
    first = sum(b == c != a for a, b, c in (each.shape for each in maps))
    return last > first


def _blocks(sequences: Sequence[Layer]) -> list[Layer]:
    """The largest family of layers that differ in one number of their names and share a shape."""
    families: dict[tuple[str, tuple[int, ...]], list[Layer]] = {}
    for each in sequences:
        parent, dot, last = each.name.rpartition(".")
        alike = _NUMBER.sub("#", last)
        if alike != last:
            families.setdefault((parent + dot + alike, each.shape), []).append(each)
    best = max(families.values(), key=len, default=[])
    return best if len(best) > 1 else []


def _quarters(blocks: Sequence[Layer]) -> list[Layer]:
    positions = sorted({len(blocks) * quarter // 4 - 1 for quarter in _QUARTERS} - {-1})
    return [blocks[position] for position in positions]


def _is_square(number: int) -> bool:
    return number > 0 and round(number**0.5) ** 2 == number


def reads_average(values: Tensor, features: Tensor) -> bool:
    """Whether features (B, D) are the average over space of maps (B, C, H, W) or (B, H, W, C)."""
    return any(
        values.mean(axes).shape == features.shape
        and torch.allclose(values.mean(axes), features, rtol=1e-3, atol=1e-4)
        for axes in ((2, 3), (1, 2))
    )


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dim() > 0
