"""A classifier of texts that is an ONNX graph already: `backbone = "onnx"` of modality text.

    backbone_options = { file = "intents.onnx", taps = { early = "layer_norm_2" }, pooling = "cls" }

What else the graph reads beside token ids, a mask and the kinds of its tokens, is made inside it.
"""

from collections.abc import Mapping, Sequence
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

    taps        tap name -> name of a tensor: vectors (N, D), or sequences, N, L and D in any
                order, of which is taken
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
        layouts = _layouts_of(model, tensors, file)
        places = {
            tap: _pooled(model, tap, tensor, layouts[tensor], pooling)
            if layouts[tensor]
            else tensor
            for tap, tensor in tensors.items()
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
        """Every sequence and every vector up to the head, and which to tap."""
        if tokens.shape[1] < 2:
            raise ValueError(f"{self.file}: --max-tokens leaves texts of one token; give more")
        self(tokens, mask)  # says what is wrong, where something is
        kinds = self.every_tensor()
        names = [*kinds, self.features]
        values = self.values_of(names, tokens, mask)
        shorter = self.values_of(names, tokens[:, 1:], mask[:, 1:])
        layouts = _layouts(values, shorter, self.values_of(names, tokens[1:], mask[1:]))
        # in the graph's order, sequences as (N, L, D)
        found = {name: values[name].transpose(layout) if layout else values[name]
                 for name, layout in layouts.items()}  # fmt: skip
        layers = tuple(
            Layer(name, kinds[name], value.shape[1:], 1, kinds[name] in SHAPING)
            for name, value in found.items()
            if name in kinds
        )
        first = _reads_first(found)
        choice = TapChoice(
            self.features, self._proposed(found, mask, first), "class" if first else "map"
        )
        read = torch.from_numpy(values[self.features])
        classes = self.head.out_features
        return Survey(layers, self.features, read, classes, False, False, choice)

    def _proposed(
        self, found: Mapping[str, NDArray[Any]], mask: Tensor, first: bool
    ) -> tuple[str, ...]:
        """Sequences at a quarter, half and three quarters of the depth; without any, vectors.
        None that is the same for all texts, or what the head reads, which is tapped anyway."""
        own = mask.numpy()[:, :, None]
        head = found[self.features]

        def tells(name: str) -> bool:
            value = found[name]
            if value.ndim == 3:
                value = value[:, 0] if first else (value * own).sum(1) / own.sum(1)
            same = value.shape == head.shape and np.allclose(value, head, rtol=1e-3, atol=1e-5)
            return not same and bool(np.ptp(value, axis=0).max(initial=0) > 0)

        passed = [each for each in passages(self.model, self._ids, self.features)
                  if each.tensor in found]  # fmt: skip
        chosen = quarters([each for each in passed if found[each.tensor].ndim == 3])
        if chosen := [name for name in chosen if tells(name)]:
            return tuple(chosen)
        # what is linear in the features says nothing new
        deepest = max((each.depth for each in passed), default=0)
        ends = {each.depth: each.tensor for each in passed
                if found[each.tensor].ndim == 2 and each.depth < deepest}  # fmt: skip
        return tuple(name for name in ends.values() if tells(name))[-_MOST_VECTORS:]


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


def _pooled(
    model: ModelProto, tap: str, tensor: str, layout: tuple[int, ...], pooling: Pooling
) -> str:
    """Append what makes a sequence one vector a text, (N, D); its name.  `layout`: the axes of
    texts, tokens and features.

    Operators that are the same in every opset.
    """
    pooled, graph = f"text/{tap}", model.graph

    def constant(name: str, values: list[int] | int, kind: type = np.int64) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(values, kind), pooled + name))
        return pooled + name

    def made(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(kind, inputs, [pooled + name], **attributes))
        return pooled + name

    if layout != (0, 1, 2):
        tensor = made("Transpose", tensor, name="/ordered", perm=layout)
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


def _layouts_of(
    model: ModelProto, tensors: Mapping[str, str], file: str
) -> dict[str, tuple[int, ...]]:
    """`_layouts` of the tensors to tap; run, as shapes are not always written down."""
    if not tensors:
        return {}
    names = list(dict.fromkeys(tensors.values()))
    session = session_of(with_outputs(model, names), file)

    def values(texts: int, tokens: int) -> dict[str, NDArray[Any]]:
        shape = (texts, tokens)
        fed = {_TOKENS: np.ones(shape, np.int64), _OWN: np.ones(shape, np.bool_)}
        return dict(zip(names, map(np.asarray, session.run(names, fed)), strict=True))

    found = _layouts(values(2, 2), values(2, 1), values(1, 2))
    for tap, tensor in tensors.items():
        if tensor not in found:
            raise ValueError(
                f"{file}: {tensor}, the tap {tap}, is neither a vector nor a sequence of vectors "
                "for every text; --list-layers shows what is"
            )
    return found


def _layouts(
    values: Mapping[str, NDArray[Any]],
    shorter: Mapping[str, NDArray[Any]],
    fewer: Mapping[str, NDArray[Any]],
) -> dict[str, tuple[int, ...]]:
    """Of sequences the axes of texts, tokens and features, of vectors (N, D) none; other tensors
    are left out.  `shorter`, `fewer`: the values for shorter and for fewer texts."""
    found: dict[str, tuple[int, ...]] = {}
    for name, value in values.items():
        tokens, texts = (
            [axis for axis, size in enumerate(value.shape) if other[name].shape[axis] != size]
            for other in (shorter, fewer)
        )
        if value.ndim == 2 and texts == [0] and not tokens:
            found[name] = ()
        if value.ndim == 3 and len(texts) == len(tokens) == 1 and texts != tokens:
            (rest,) = {0, 1, 2}.difference(texts, tokens)
            found[name] = (*texts, *tokens, rest)
    return found


def _reads_first(found: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a vector is the first token of a sequence made before it.  A sequence made after it
    may be the vector, repeated."""
    before: list[NDArray[Any]] = []
    for value in found.values():
        if value.ndim == 3:
            before.append(value[:, 0])
        elif any(np.array_equal(value, first) for first in before):
            return True
    return False
