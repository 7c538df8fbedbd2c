"""Files of torch.export (.pt2) and TorchScript (.pt, .pth, .ts) -> one flat graph of operators.

Neither is run as it stands in the file: operators of ATen are taken over one by one, anything else
is refused.  No pickle is loaded.
"""

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from training.config import expand_variables

_TRAINING = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}  # which argument says so
_OLD = "serialized_exported_program.json"


def load_graph(file: str) -> fx.GraphModule:
    """One input, images (N, C, H, W), normalised, one output.  ValueError says what is wrong."""
    expanded = expand_variables(file)
    path = Path(expanded) if expanded is not None else None
    if path is None or not path.is_file():
        raise ValueError(f"{file}: there is no such file")
    graph = _exported(path) if path.suffix == ".pt2" else _scripted(path)
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        names = [node.name for node in inputs]
        raise ValueError(f"{file}: has the inputs {names}; one, of images, is read")
    for node in graph.graph.nodes:
        position = _TRAINING.get(str(node.target))
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise ValueError(f"{file}: was exported in training mode; call eval() before it")
    return graph.eval()


def _exported(path: Path) -> fx.GraphModule:
    _refuse_pickles(path)
    try:
        program: Any = torch.export.load(path)
    except Exception as exc:  # a damaged archive fails in a dozen ways
        raise ValueError(f"{path}: cannot be read by torch.export ({exc})") from exc
    module: Any = program.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module":  # checks of the input's size
            module.graph.erase_node(node)
        elif node.op == "placeholder" and isinstance(node.meta["val"].shape[0], int):
            raise ValueError(
                f"{path}: takes exactly {node.meta['val'].shape[0]} images at a time; export it "
                "with a dynamic first dimension (dynamic_shapes)"
            )
        elif node.op == "output" and isinstance(node.args[0], tuple | list):
            node.args = (node.args[0][0],)
    module.graph.set_codegen(CodeGen())  # one tensor in, one out: no trees of them
    return fx.GraphModule(module, module.graph)


def _refuse_pickles(path: Path) -> None:
    refusal = (
        f"{path}: holds pickled objects, which could run code and are not loaded; save it again "
        "with torch.export.save of a present torch, parameters and buffers as plain tensors"
    )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            configs = [json.loads(archive.read(n)) for n in names if n.endswith("_config.json")]
    except (zipfile.BadZipFile, json.JSONDecodeError, OSError) as exc:
        raise ValueError(f"{path}: is no file of torch.export ({exc})") from exc
    if _OLD in names or any("custom_obj" in name or "opaque" in name for name in names):
        raise ValueError(refusal)
    entries = [entry for config in configs for entry in config.get("config", {}).values()]
    if any(entry.get("use_pickle", True) for entry in entries):
        raise ValueError(refusal)


def _scripted(path: Path) -> fx.GraphModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which class says "deprecated" varies by release
            loaded: Any = torch.jit.load(path, map_location="cpu").eval()
            frozen: Any = torch.jit.freeze(loaded)
    except RuntimeError as exc:
        raise ValueError(
            f"{path}: is no TorchScript file ({str(exc).splitlines()[0]}); the file of a state "
            "dict goes by package.module:callable and --weights"
        ) from exc
    return _Converted(path, frozen.inlined_graph).module()


class _Converted:
    """A graph of TorchScript without branches and loops, node by node."""

    def __init__(self, path: Path, script: Any) -> None:
        self._path = path
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._values: dict[str, Any] = {}
        inputs = list(script.inputs())
        for position, value in enumerate(inputs[1:]):  # the first is the module itself
            self._values[value.debugName()] = self._graph.placeholder(f"x{position}")
        for node in script.nodes():
            self._convert(node)
        (output,) = script.outputs()
        self._graph.output(self._values[output.debugName()])

    def module(self) -> fx.GraphModule:
        self._graph.lint()
        return fx.GraphModule(self._root, self._graph)

    def _convert(self, node: Any) -> None:
        kind: str = node.kind()
        outputs = [value.debugName() for value in node.outputs()]
        given = [self._values.get(value.debugName()) for value in node.inputs()]
        if kind == "prim::Constant":
            self._values[outputs[0]] = self._constant(node.output().toIValue())
        elif kind in ("prim::ListConstruct", "prim::TupleConstruct"):
            self._values[outputs[0]] = given
        elif kind == "prim::ListUnpack":
            for position, name in enumerate(outputs):
                self._values[name] = self._call(torch.ops.aten.select.int, [given[0], position])
        elif kind.startswith("aten::") and len(outputs) == 1:
            self._values[outputs[0]] = self._call(*self._operator(node, given))
        else:
            raise ValueError(
                f"{self._path}: {kind} cannot be taken over (branches and loops of TorchScript, "
                "custom operators); export the model with torch.export instead"
            )

    def _operator(self, node: Any, given: list[Any]) -> tuple[Any, list[Any], dict[str, Any]]:
        """The very overload of the node, its arguments by position and those by name alone."""
        name = node.kind().removeprefix("aten::")
        if name == "_convolution":  # the last four choose between implementations
            return torch.ops.aten.convolution.default, given[:9], {}
        schema: Any = torch._C.parse_schema(node.schema())
        operator = getattr(getattr(torch.ops.aten, name), schema.overload_name or "default")
        pairs = list(zip(schema.arguments, given, strict=True))
        named = {argument.name: value for argument, value in pairs if argument.kwarg_only}
        return operator, [value for argument, value in pairs if not argument.kwarg_only], named

    def _call(
        self, target: Any, arguments: list[Any], named: dict[str, Any] | None = None
    ) -> fx.Node:
        return self._graph.call_function(target, tuple(arguments), named)

    def _constant(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        name = f"constant{len(list(self._root.buffers()))}"
        self._root.register_buffer(name, value.detach().clone())
        return self._graph.get_attr(name)
