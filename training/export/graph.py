"""torch module -> ONNX graph with a dynamic batch, and of texts a dynamic length.

Opset 20; the module must take uint8 pixels (N, H, W, C) or int64 token ids (N, L) and return a
dict of tensors whose first dimension is N.
"""

import warnings
from collections.abc import Mapping
from inspect import signature
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from service.bundle import TextInput
from training.classifier import InputSpec, example_inputs
from training.export.fusion import fuse

PIXELS, TOKENS = "pixels", "tokens"
# Sizes equal to no other dimension, so that the exporter cannot mistake one for them.
EXAMPLE_BATCH = 13
EXAMPLE_LENGTH = 17
OPSET = 20


def input_name(spec: InputSpec) -> str:
    """What a graph calls its input."""
    return TOKENS if isinstance(spec, TextInput) else PIXELS


def export_graph(module: nn.Module, spec: InputSpec, path: Path) -> None:
    """Write one self-contained ONNX file and check it against the ONNX specification."""
    example = example_inputs(spec, EXAMPLE_BATCH, EXAMPLE_LENGTH)
    export_module(module, {input_name(spec): example}, path, lengths=isinstance(spec, TextInput))


def export_module(
    module: nn.Module, inputs: Mapping[str, Tensor], path: Path, *, lengths: bool = False
) -> None:
    """As `export_graph`, of any module; `inputs`: examples by the names they get in the graph,
    first dimension N, and of `lengths` second dimension L."""
    dynamic = {0: torch.export.Dim("N", min=1)}
    if lengths:
        dynamic[1] = torch.export.Dim("L", min=1)
    module = module.eval()
    examples = tuple(inputs.values())
    with torch.no_grad():
        names = list(module(*examples))
    # arguments behind a star are one argument, a tuple
    starred = any(p.kind is p.VAR_POSITIONAL for p in signature(module.forward).parameters.values())
    shapes = tuple(dynamic for _ in examples)
    with warnings.catch_warnings():
        # the exporter's own dependencies deprecate one another; nothing a caller can act on
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                dynamic_shapes=(shapes,) if starred else shapes,
                input_names=list(inputs),
                output_names=names,
                opset_version=OPSET,
                verbose=False,
            )
        except OnnxExporterError as exc:
            raise ValueError(_why(exc)) from exc
    assert program is not None  # noqa: S101  (only None without dynamo)
    fuse(program.model)
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    _forget_sources(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _why(error: BaseException) -> str:
    """What the exporter could not take, from the innermost of its errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"torch.onnx.export cannot make a graph of this network: {' '.join(lines[:3])}; a forward "
        "pass must not depend on the values of its inputs (branches, loops), and its batch must "
        "be free"
    )


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces: they name files of the machine that exported."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
    for node in graph.node:
        node.ClearField("doc_string")
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]
            node.ClearField("doc_string")
