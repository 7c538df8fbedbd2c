"""An ONNX classifier of someone else, with our scores behind it: one graph.

Three parts are joined: raw inputs -> what the graph reads, normalised images, or token ids and
their mask; the graph as it was given; what the detectors make of its tensors, exported from torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, compose, helper, version_converter
from torch import Tensor, nn

from service.bundle import TextInput
from training.backbones.onnx_graph import OnnxGraph
from training.classifier import Classifier, example_inputs
from training.export.graph import (
    EXAMPLE_BATCH,
    EXAMPLE_LENGTH,
    OPSET,
    export_module,
    input_name,
)
from training.outputs import Outputs
from training.scorer import LOGITS, Scorer

_GIVEN, _SCORES = "given/", "appended/"


class _Read(nn.Module):
    """Raw inputs -> what the backbone is called with, `read0` first."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        arguments = self.classifier.arguments(self.classifier.continuous(inputs), inputs)
        return {f"read{position}": argument for position, argument in enumerate(arguments)}


class _Scores(nn.Module):
    """Taps, features and logits, in the order of OnnxGraph.outputs -> scores by name."""

    def __init__(self, scorer: Scorer, backbone: OnnxGraph) -> None:
        super().__init__()
        self.scorer = scorer
        self.names = backbone.tap_names
        self.penultimate = backbone.penultimate

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        *taps, logits = given
        named = dict(zip(self.names, taps, strict=True))
        return self.scorer.scores(Outputs(named, logits, self.penultimate))


def append_scores(scorer: Scorer, path: Path) -> None:
    """Write the graph: uint8 pixels (N, H, W, C), or int64 tokens (N, L) -> logits and
    score/<name>."""
    classifier = scorer.classifier
    backbone = classifier.backbone
    assert isinstance(backbone, OnnxGraph)  # noqa: S101
    spec = classifier.spec
    inputs = example_inputs(spec, EXAMPLE_BATCH, EXAMPLE_LENGTH)
    lengths = isinstance(spec, TextInput)
    export_module(_Read(classifier), {input_name(spec): inputs}, path, lengths=lengths)
    before = onnx.load(path)
    with torch.no_grad():
        # a graph may know fewer positions than the example of its mask has
        outputs = classifier(inputs[:, : spec.max_tokens] if lengths else inputs)
    tensors = [*outputs.taps.values(), outputs.logits]
    named = {f"tensor{position}": tensor for position, tensor in enumerate(tensors)}
    export_module(_Scores(scorer, backbone), named, path)
    after = _prefixed(onnx.load(path), _SCORES, outputs=False)
    shapes = dict(zip(backbone.outputs(), (tensor.shape for tensor in tensors), strict=True))
    given = _prefixed(_at_opset(_sized(backbone.tapped(), shapes)), _GIVEN)
    before.ir_version = after.ir_version = given.ir_version = max(
        before.ir_version, after.ir_version, given.ir_version
    )
    read = [(f"read{position}", _GIVEN + name) for position, name in enumerate(backbone.reads)]
    # what is joined loses its place among the outputs: only the logits keep one, by a new name
    network = compose.merge_models(before, given, io_map=read)
    joined = [
        (_GIVEN + tensor, f"{_SCORES}tensor{position}")
        for position, tensor in enumerate(backbone.outputs())
    ]
    model = compose.merge_models(network, after, io_map=_fanned_out(after, joined))
    model.graph.node.append(
        helper.make_node("Identity", [_GIVEN + backbone.logits], [LOGITS], name="logits")
    )
    shape = ["N", backbone.head.out_features]
    logits = helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, shape)
    scores = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([logits, *scores])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _prefixed(model: ModelProto, prefix: str, *, outputs: bool = True) -> ModelProto:
    return compose.add_prefix(model, prefix, rename_outputs=outputs)


def _sized(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> ModelProto:
    """The same graph, its outputs with their shapes, the first dimension left open: without them
    the checker refuses it."""
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape[1:]])
        for name, shape in shapes.items()
    )
    return model


def _at_opset(model: ModelProto) -> ModelProto:
    """The same graph in the opset of the other parts."""
    version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return model if version == OPSET else version_converter.convert_version(model, OPSET)


def _fanned_out(after: ModelProto, joined: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs whose input the part behind really has: the exporter drops what nothing reads."""
    present = {value.name for value in after.graph.input}
    return [(output, given) for output, given in joined if given in present]
