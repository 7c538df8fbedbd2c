"""A classifier of texts that is an ONNX graph already: `backbone = "onnx"` of modality text.

    backbone_options = { file = "intents.onnx", taps = { early = "layer_norm_2" }, pooling = "cls" }

What else the graph reads beside token ids, a mask and the kinds of its tokens, is made inside it.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor

from training.backbones.given_files import named_taps
from training.backbones.layers import Layer, Survey, TapChoice
from training.backbones.onnx_graph import (
    SHAPING,
    OnnxGraph,
    inputs_of,
    load_model,
    makers_of,
    session_of,
    sizes_of,
    with_outputs,
)
from training.backbones.word_stream import passages, quarters, words_known
from training.outputs import Outputs

Pooling = Literal["mean", "cls"]

_TOKENS, _OWN = "text/tokens", "text/own"
_IDS = ("input_ids", "token_ids", "tokens", "ids")
_MASKS = ("attention_mask", "input_mask", "mask")
_KINDS = ("token_type_ids", "segment_ids")
_INTEGERS = frozenset({TensorProto.INT32, TensorProto.INT64})
_MASK_TYPES = _INTEGERS | {TensorProto.BOOL, TensorProto.FLOAT}
_MOST_VECTORS = 3


class OnnxTextModel(OnnxGraph):
    """file: reads token ids (N, L), and may read a mask, 1 where a token of the text stands, and
    the kinds of its tokens, all of the first; gives logits (N, K) made of one vector a text.

    taps        tap name -> name of a tensor, (N, D), or (N, L, D), of which is taken
    pooling     the first token ("cls"), or the mean over the text's own ("mean").

    ValueError where the file, its inputs, the vocabulary, the classes or a tap do not fit.
    """

    def __init__(
        self,
        vocabulary_size: int,
        classes: int | None,
        *,
        file: str,
        taps: Mapping[str, str] | Sequence[str] = (),
        pooling: Pooling = "mean",
    ) -> None:
        if pooling not in ("mean", "cls"):
            raise ValueError(f"{file}: pooling {pooling!r}; choose mean or cls")
        model = load_model(file)
        read = _read_by(model, file)
        rows = words_known(model, read.ids)
        if rows is not None and rows < vocabulary_size:
            raise ValueError(
                f"{file}: holds the embeddings of {rows} tokens, the tokenizer has "
                f"{vocabulary_size} ids; give the tokenizer of its training (--tokenizer)"
            )
        tensors = named_taps(file, taps, makers_of(model), "tensors")
        _feed(model, read)
        places = {
            tap: _pooled(model, tap, tensor, pooling) if ranks == 3 else tensor
            for (tap, tensor), ranks in zip(
                tensors.items(), _ranks(model, tensors, file), strict=True
            )
        }
        super().__init__(file, model, (_TOKENS, _OWN), classes, places)
        self._ids = read.ids

    def embed(self, tokens: Tensor) -> Tensor:
        """The ids as they are: the graph itself looks words up, and no gradient comes back."""
        return tokens

    def forward(self, tokens: Tensor, mask: Tensor) -> Outputs:
        """int64 (B, L), bool (B, L) -> taps (B, D).  ValueError where it does not run on them."""
        try:
            outputs = self.computed(tokens, mask)
        except Exception as exc:  # onnxruntime has a dozen of its own
            said = str(exc).strip().splitlines()[0]
            raise ValueError(
                f"{self.file}: does not run on {len(tokens)} texts of {tokens.shape[1]} tokens: "
                f"{said} (where it knows fewer positions, --max-tokens says how many are read)"
            ) from exc
        if outputs.features.dim() != 2:
            raise ValueError(
                f"{self.file}: its last linear layer reads {tuple(outputs.features.shape)} of "
                f"{len(tokens)} texts of {tokens.shape[1]} tokens; one vector a text is expected"
            )
        return outputs

    def survey(self, tokens: Tensor, mask: Tensor) -> Survey:
        """Every sequence (N, L, D) and every vector (N, D) up to the head, and which to tap."""
        self(tokens, mask)  # says what is wrong, where something is
        kinds = self.every_tensor()
        names = [*kinds, self.features]
        values = self.values_of(names, tokens, mask)
        fewer = max(1, tokens.shape[1] - 1)
        shorter = self.values_of(names, tokens[:, :fewer], mask[:, :fewer])
        sequences = {
            name: value
            for name, value in values.items()
            if value.ndim == 3
            and value.shape[:2] == tuple(tokens.shape)
            and shorter[name].shape[1] == fewer
        }
        vectors = {
            name: value
            for name, value in values.items()
            if value.ndim == 2 and len(value) == len(tokens) and value.shape == shorter[name].shape
        }
        layers = tuple(
            Layer(name, kind, values[name].shape[1:], 1, kind in SHAPING)
            for name, kind in kinds.items()
            if name in sequences or name in vectors
        )
        first = _reads_first(values, vectors, sequences)
        own = mask.numpy()[:, :, None]
        of_texts = {
            name: value[:, 0] if first else (value * own).sum(1) / own.sum(1)
            for name, value in sequences.items()
        }
        choice = TapChoice(
            self.features,
            self._proposed(of_texts, vectors),
            "class" if first else "map",
        )
        read = torch.from_numpy(values[self.features])
        classes = self.head.out_features
        return Survey(layers, self.features, read, classes, False, False, choice)

    def _proposed(
        self, sequences: Mapping[str, NDArray[Any]], vectors: Mapping[str, NDArray[Any]]
    ) -> tuple[str, ...]:
        """Sequences at a quarter, half and three quarters of the depth; without any, vectors."""
        found = passages(self.model, self._ids, self.features)
        if chosen := quarters([each for each in found if each.tensor in sequences]):
            return tuple(name for name in chosen if _varies(sequences[name]))
        # what the head reads is tapped anyway, and what is linear in it says nothing new
        deepest = max((each.depth for each in found), default=0)
        ends = {
            each.depth: each.tensor
            for each in found
            if each.tensor in vectors and each.depth < deepest and _varies(vectors[each.tensor])
        }
        return tuple(ends.values())[-_MOST_VECTORS:]


def reads_tokens(file: str) -> bool:
    """Whether a graph reads token ids, so that its inputs are texts."""
    return any(_type_of(value) in _INTEGERS for value in inputs_of(load_model(file)))


@dataclass(frozen=True)
class _Read:
    """Inputs of a graph by what they are."""

    ids: str
    mask: str | None
    kinds: str | None


def _read_by(model: ModelProto, file: str) -> _Read:
    inputs = {value.name: value for value in inputs_of(model)}
    found: dict[str, str] = {}
    for name, value in inputs.items():
        for role, names, types in (
            ("ids", _IDS, _INTEGERS),
            ("mask", _MASKS, _MASK_TYPES),
            ("kinds", _KINDS, _INTEGERS),
        ):
            known = name.removesuffix(":0") in names or (role == "ids" and len(inputs) == 1)
            if known and _type_of(value) in types and len(sizes_of(value)) == 2:
                found.setdefault(role, name)
    strange = [name for name in inputs if name not in found.values()]
    if strange or "ids" not in found:
        given = {name: _described(value) for name, value in inputs.items()}
        raise ValueError(
            f"{file}: reads {', '.join(f'{name} ({said})' for name, said in given.items())}; "
            "understood are token ids (input_ids, or any name where there is no other input), "
            "attention_mask and token_type_ids, each (N, L): export it with these alone"
        )
    for name, value in inputs.items():
        for place, (size, what) in enumerate(
            zip(sizes_of(value), ("texts", "tokens"), strict=True)
        ):
            if isinstance(size, int):
                raise ValueError(
                    f"{file}: {name} takes exactly {size} {what}; export it with a dynamic "
                    f"{('first', 'second')[place]} dimension (dynamic_axes, or dynamic_shapes)"
                )
    return _Read(found["ids"], found.get("mask"), found.get("kinds"))


def _type_of(value: Any) -> int:
    return value.type.tensor_type.elem_type


def _described(value: Any) -> str:
    kind = TensorProto.DataType.Name(_type_of(value)).lower()
    return f"{kind} {' x '.join(map(str, sizes_of(value)))}"


def _feed(model: ModelProto, read: _Read) -> None:
    """Make what the graph reads of int64 ids and a bool mask, which it then reads instead."""
    types = {value.name: _type_of(value) for value in inputs_of(model)}
    nodes = [helper.make_node("Cast", [_TOKENS], [read.ids], to=types[read.ids])]
    if read.mask is not None:
        nodes.append(helper.make_node("Cast", [_OWN], [read.mask], to=types[read.mask]))
    if read.kinds is not None:
        nodes.append(helper.make_node("Sub", [_TOKENS, _TOKENS], ["text/kinds"]))
        nodes.append(helper.make_node("Cast", ["text/kinds"], [read.kinds], to=types[read.kinds]))
    graph = model.graph
    kept = [value for value in graph.input if value.name not in types]
    del graph.input[:]
    graph.input.extend(
        [
            helper.make_tensor_value_info(_TOKENS, TensorProto.INT64, ["N", "L"]),
            helper.make_tensor_value_info(_OWN, TensorProto.BOOL, ["N", "L"]),
            *kept,
        ]
    )
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _pooled(model: ModelProto, tap: str, tensor: str, pooling: Pooling) -> str:
    """Append what makes a sequence (N, L, D) one vector a text, (N, D); its name.

    Operators that are the same in every opset.
    """
    pooled, graph = f"text/{tap}", model.graph

    def constant(name: str, values: list[int] | int, kind: type = np.int64) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, kind), pooled + name))
        return pooled + name

    def made(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, inputs, [pooled + name], **attributes))
        return pooled + name

    if pooling == "cls":
        return made("Gather", tensor, constant("/first", 0), name="", axis=1)
    own = made("Cast", _OWN, name="/own", to=TensorProto.FLOAT)
    row = made("Reshape", own, constant("/row_shape", [0, 1, -1]), name="/row")
    column = made("Reshape", own, constant("/column_shape", [0, -1, 1]), name="/column")
    count = made("MatMul", row, column, name="/counted")  # ones and zeros
    least = made("Max", count, constant("/one", 1, np.float32), name="/count")
    total = made("MatMul", row, tensor, name="/sum")
    mean = made("Div", total, least, name="/mean")
    return made("Reshape", mean, constant("/shape", [0, -1]), name="")


def _ranks(model: ModelProto, tensors: Mapping[str, str], file: str) -> list[int]:
    """Of the tensors to tap; run, as types and ranks are not always written down."""
    if not tensors:
        return []
    session = session_of(with_outputs(model, list(tensors.values())), file)
    fed = {_TOKENS: np.ones((2, 1), np.int64), _OWN: np.ones((2, 1), np.bool_)}
    names = list(dict.fromkeys(tensors.values()))
    ranks = dict(zip(names, (np.ndim(value) for value in session.run(names, fed)), strict=True))
    for tap, tensor in tensors.items():
        if ranks[tensor] not in (2, 3):
            raise ValueError(
                f"{file}: {tensor}, the tap {tap}, has {ranks[tensor]} dimensions; a tap is "
                "(N, D) or (N, L, D)"
            )
    return [ranks[tensor] for tensor in tensors.values()]


def _reads_first(
    values: Mapping[str, NDArray[Any]], vectors: Container[str], sequences: Container[str]
) -> bool:
    """Whether a vector is the first token of a sequence made before it; `values` are in the
    graph's order.  A sequence made after it may be the vector, repeated."""
    before: list[NDArray[Any]] = []
    for name, value in values.items():
        if name in sequences:
            before.append(value[:, 0])
        if name in vectors and any(np.array_equal(value, first) for first in before):
            return True
    return False


def _varies(values: NDArray[Any]) -> bool:
    """Of vectors (N, D): the first token's embedding is the same for all texts."""
    return bool(np.ptp(values, axis=0).max(initial=0) > 0)
