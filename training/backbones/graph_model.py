"""A classifier in a file of torch.export or TorchScript: `backbone = "graph"`.

backbone_options = { file = "${MODELS}/sorter.pt2", taps = { early = "relu_1" } }
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from training.backbones.given_files import check_classes, named_taps
from training.backbones.graph_files import load_graph
from training.backbones.layers import Layer, Survey, reads_average
from training.backbones.tapped import PENULTIMATE
from training.classifier import Backbone
from training.outputs import Outputs

_IDENTITIES = ("flatten", "view", "reshape", "dropout", "squeeze", "clone")


class GraphModel(nn.Module):
    """taps: tap name -> name of a node.  The logits must be made by one linear operator.

    ValueError names what does not fit; a bundle restores with the file in its place.
    """

    def __init__(
        self,
        channels: int,
        classes: int | None,
        *,
        file: str,
        taps: Mapping[str, str] | Sequence[str] = (),
    ) -> None:
        super().__init__()
        module = load_graph(file)
        output = next(node for node in module.graph.nodes if node.op == "output")
        linear = output.args[0]
        weights = _weights(module, linear)
        if weights is None:
            raise ValueError(
                f"{file}: its output is made by {getattr(linear, 'target', linear)}; it must be "
                "logits made by one linear layer (no softmax behind them)"
            )
        self.head = nn.Linear(weights[0].shape[1], weights[0].shape[0])
        with torch.no_grad():
            self.head.weight.copy_(weights[0])
            self.head.bias.copy_(weights[1])
        check_classes(file, self.head.out_features, classes)
        known = {node.name: node for node in module.graph.nodes if node.op == "call_function"}
        self.nodes = named_taps(file, taps, known, "nodes")
        self.tap_names = (*self.nodes, PENULTIMATE)
        self.penultimate = PENULTIMATE
        features = linear.args[0]
        kept = [_kept(module.graph, known[name]) for name in self.nodes.values()]
        output.args = ((*kept, features, linear),)
        module.graph.lint()
        module.recompile()
        self.module = module

    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W), normalised -> taps as the graph gives them, `penultimate` (B, D) last."""
        *taps, features, logits = self.module(images)
        named = dict(zip(self.nodes, taps, strict=True))
        return Outputs(named | {PENULTIMATE: features}, logits, PENULTIMATE)

    @torch.no_grad()
    def survey(self, images: Tensor) -> Survey:
        """Every node up to the head."""
        seen = _Seen(self.module)
        *_, features, logits = seen.run(images)
        layers = [_layer(name, value, len(images)) for name, value in seen.values.items()]
        maps = [value for value in seen.values.values() if value.dim() == 4]
        averaged = any(reads_average(value, features) for value in maps)
        square = images.shape[2] == images.shape[3]
        found = tuple(layers[:-1])  # the last one makes the logits
        return Survey(found, "the last linear", features, logits.shape[1], averaged, square)


def graph_model(
    channels: int,
    classes: int | None,
    *,
    file: str,
    taps: Mapping[str, str] | Sequence[str] = (),
) -> Backbone:
    """A GraphModel, by the options of a config."""
    return cast(Backbone, GraphModel(channels, classes, file=file, taps=taps))


class _Seen(fx.Interpreter):
    """What each operator gave."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value


def _layer(name: str, value: Tensor, batch: int) -> Layer:
    shape = tuple(value.shape[1:]) if value.dim() > 1 and len(value) == batch else ()
    kind = name.rstrip("_0123456789")
    return Layer(name, kind, shape, 1, kind in _IDENTITIES)


def _weights(module: fx.GraphModule, node: Any) -> tuple[Tensor, Tensor] | None:
    """Weight (K, D) and bias (K,) of a linear operator; None for another one."""
    if not isinstance(node, fx.Node) or "aten.linear" not in str(node.target):
        return None
    given = [_constant(module, argument) for argument in node.args[1:3]]
    if given[0] is None or (len(given) > 1 and given[1] is None and node.args[2] is not None):
        return None
    bias = given[1] if len(given) > 1 and given[1] is not None else torch.zeros(len(given[0]))
    return given[0], bias


def _constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()


def _kept(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A copy: an operator behind it may work in place."""
    with graph.inserting_after(node):
        return graph.call_function(torch.ops.aten.clone.default, (node,))
