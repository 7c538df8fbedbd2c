"""Store the large constants of a bundle once, whichever graphs read them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from service.bundle import WEIGHTS

# below this a reference costs more than the values
_SMALLEST_BYTES = 1024
_ALIGNMENT = 4096  # so that a reader can map a tensor into memory

# SHA-256 of a constant's bytes -> file name, offset, length
Places = dict[bytes, tuple[str, int, int]]


def share_weights(graphs: Sequence[Path], states: Sequence[Path] = ()) -> Path:
    """Rewrite graphs of one folder to read their constants from files beside them.

    A constant whose bytes stand in one of `states` (safetensors files of the folder: the
    network's weights, the detectors' fits) is read there; the others go to weights.bin, equal
    bytes once, whatever graph or shape they belong to.  A matrix whose transpose is stored
    already is read there, too: a Transpose, which a session works out once, on loading.
    """
    weights = graphs[0].parent / WEIGHTS
    places: Places = {}
    for state in states:
        places |= _places_in(state)
    with weights.open("wb") as stream:
        for path in graphs:
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                matrix = numpy_helper.to_array(tensor)
                values = matrix.tobytes()
                if len(values) < _SMALLEST_BYTES:
                    continue
                digest = hashlib.sha256(values).digest()
                turned = hashlib.sha256(matrix.T.tobytes()).digest()
                if digest not in places and matrix.ndim == 2 and turned in places:
                    _transpose_on_loading(model, tensor)
                    digest = turned
                if digest not in places:
                    stream.write(bytes(-stream.tell() % _ALIGNMENT))
                    places[digest] = (weights.name, stream.tell(), len(values))
                    stream.write(values)
                _refer(tensor, *places[digest])
            onnx.save(model, path)
    return weights


def _transpose_on_loading(model: ModelProto, tensor: TensorProto) -> None:
    """The constant becomes its transpose, and a node of its old name turns it back."""
    name, turned = tensor.name, f"{tensor.name}/transposed"
    tensor.name = turned
    tensor.dims[:] = reversed(tensor.dims)
    model.graph.node.insert(0, helper.make_node("Transpose", [turned], [name], perm=[1, 0]))


def _refer(tensor: TensorProto, file: str, offset: int, length: int) -> None:
    for field in ("float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(field)
    tensor.raw_data = b""  # where the helper wants the values that stand elsewhere
    set_external_data(tensor, file, offset=offset, length=length)
    tensor.ClearField("raw_data")


def _places_in(state: Path) -> Places:
    """Where a safetensors file holds its large tensors: eight bytes of length, a JSON header,
    then the values, little-endian."""
    content = state.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    found: Places = {}
    for entry in header.values():
        begin, end = entry["data_offsets"]
        if end - begin >= _SMALLEST_BYTES:
            values = content[start + begin : start + end]
            found[hashlib.sha256(values).digest()] = (state.name, start + begin, end - begin)
    return found
