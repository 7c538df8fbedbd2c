"""torch module -> ONNX graph with a dynamic batch.

Opset 20; the module must take uint8 pixels (N, H, W, C) and return a dict of tensors whose
first dimension is N.
"""

import warnings
from pathlib import Path

import onnx
import torch
from torch import nn

from service.bundle import ImageInput

INPUT = "pixels"
# A batch size equal to no other dimension, so that the exporter cannot mistake one for it.
_EXAMPLE_BATCH = 13
_OPSET = 20


def export_graph(module: nn.Module, spec: ImageInput, path: Path) -> None:
    """Write one self-contained ONNX file and check it against the ONNX specification."""
    example = torch.zeros(_EXAMPLE_BATCH, spec.height, spec.width, spec.channels, dtype=torch.uint8)
    example.random_(0, 256, generator=torch.Generator().manual_seed(0))
    module = module.eval()
    with torch.no_grad():
        names = list(module(example))
    with warnings.catch_warnings():
        # the exporter's own dependencies deprecate one another; nothing a caller can act on
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            input_names=[INPUT],
            output_names=names,
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None  # noqa: S101  (only None without dynamo)
    program.save(str(path), external_data=False)
    model = onnx.load(path)
    _forget_sources(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


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
