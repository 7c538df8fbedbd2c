"""Text backbones: weights by formula, taps, independence of pads and of the batch, export."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from torch import Tensor, nn

from service.bundle import pad_tokens
from training.backbones import TEXT_BACKBONES
from training.backbones.sequences import StepDropout, reversed_within
from training.graph_detectors.dropout_calls import replaced_dropout
from training.outputs import Outputs
from training.text_backbone import TextBackbone

PAD = 0
WORDS = 30
CLASSES = 5
LENGTHS = (6, 1, 9, 4)


class Reader(nn.Module):
    """Tokens (B, L) -> Outputs, with the mask a text classifier makes."""

    def __init__(self, backbone: TextBackbone) -> None:
        super().__init__()
        self.backbone: Any = backbone

    def forward(self, tokens: Tensor) -> Outputs:
        return self.backbone(self.backbone.embed(tokens), tokens != PAD)


class Everything(nn.Module):
    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        outputs = self.reader(tokens)
        return {"the logits": outputs.logits, **outputs.taps}


def build(name: str, words: int = WORDS, classes: int = CLASSES, **options: Any) -> TextBackbone:
    torch.manual_seed(3)
    return TEXT_BACKBONES[name](words, classes, **options)


def reader(name: str, **options: Any) -> Reader:
    return Reader(build(name, **options)).eval()


def texts(lengths: Sequence[int], seed: int = 0) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng([seed, *lengths])
    return [generator.integers(PAD + 1, WORDS, length) for length in lengths]


def batch(rows: Sequence[NDArray[np.int64]], *, more: int = 0) -> Tensor:
    """Padded to the longest and `more` beyond."""
    tokens = torch.from_numpy(pad_tokens(rows, PAD))
    return nn.functional.pad(tokens, (0, more), value=PAD)


def everything(network: Reader, tokens: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return Everything(network)(tokens)


# encoders from folders have a file of their own
BUILT = sorted(TEXT_BACKBONES.keys() - {"hf_classifier", "hf_encoder", "onnx"})


@pytest.fixture(params=BUILT)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# Sizes


def gru_weights(read: int, hidden: int) -> int:
    return 3 * hidden * (read + hidden) + 6 * hidden


def lstm_weights(read: int, hidden: int) -> int:
    return 4 * hidden * (read + hidden) + 8 * hidden


def block_weights(width: int) -> int:
    """Two norms, four square maps and a map to four times the width and back, with biases."""
    return 2 * 2 * width + 4 * (width * width + width) + 2 * 4 * width * width + 5 * width


def test_weights(name: str) -> None:
    words, classes = 10_002, 20
    expected = {
        "gru": words * 50 + gru_weights(50, 128) + gru_weights(128, 128) + 129 * 20,
        "lstm": words * 8 + lstm_weights(8, 128) + lstm_weights(128, 128) + 129 * 20,
        "bilstm": words * 8
        + 2 * (lstm_weights(8, 128) + lstm_weights(256, 128))
        + (256 + 1) * classes,
        "text_transformer": (words + 256) * 128 + 4 * block_weights(128) + 2 * 128 + 129 * 20,
    }
    backbone = build(name, words, classes)
    assert isinstance(backbone, nn.Module)
    assert sum(weights.numel() for weights in backbone.parameters()) == expected[name]


def test_taps_and_head(name: str) -> None:
    network = reader(name)
    tokens = batch(texts(LENGTHS))
    outputs = network(tokens)
    widths = {
        "gru": {"layer1": 128, "layer2": 128},
        "lstm": {"layer1": 128, "layer2": 128, "logits": CLASSES},
        "bilstm": {"layer1": 256, "layer2": 256, "logits": CLASSES},
        "text_transformer": dict.fromkeys(("block1", "block2", "block3", "final"), 128),
    }[name]
    assert {tap: tuple(value.shape) for tap, value in outputs.taps.items()} == {
        tap: (len(tokens), width) for tap, width in widths.items()
    }
    assert network.backbone.tap_names == tuple(widths)
    assert outputs.penultimate == network.backbone.penultimate
    torch.testing.assert_close(outputs.logits, network.backbone.head(outputs.features))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gru", {"layers": 0}),
        ("lstm", {"layers": 0}),
        ("text_transformer", {"blocks": 0}),
        ("text_transformer", {"width": 30, "heads": 4}),
    ],
)
def test_sizes_that_cannot_be_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        build(name, **options)


def test_a_text_longer_than_the_positions_is_refused() -> None:
    network = reader("text_transformer", max_tokens=8)
    network(batch(texts([8])))
    with pytest.raises(ValueError, match=r"8 positions for 9 tokens.*max_tokens"):
        network(batch(texts([9])))


# What the outputs depend on


def test_pads_and_batch_mates_change_nothing(name: str) -> None:
    """Alone, among others, and padded far beyond the batch: the same taps and logits.

    In float64, where nothing but rounding is left.
    """
    network = reader(name).double()
    rows = texts(LENGTHS)
    together = everything(network, batch(rows))
    padded = everything(network, batch(rows, more=7))
    for i, row in enumerate(rows):
        alone = everything(network, batch([row]))
        for tap, value in alone.items():
            for other in (together, padded):
                torch.testing.assert_close(value[0], other[tap][i], rtol=0, atol=1e-13)


def test_every_token_and_their_order_count(name: str) -> None:
    network = reader(name)
    (row,) = texts([8])
    logits = network(batch([row])).logits
    for changed in (*range(8), "order"):
        other = row.copy()
        if changed == "order":
            other[[2, 3]] = other[[3, 2]]
        else:
            other[changed] = PAD + 1 + other[changed] % (WORDS - 1)
        assert (network(batch([other])).logits - logits).abs().max() > 1e-7, changed


def test_a_row_of_pads_is_finite(name: str) -> None:
    for value in everything(reader(name), torch.full((2, 4), PAD)).values():
        assert value.isfinite().all()


def test_the_gradient_of_a_pads_embedding_is_zero(name: str) -> None:
    """What an input perturbation, and training, must leave alone."""
    network = reader(name)
    tokens = batch(texts(LENGTHS))
    embedded = network.backbone.embed(tokens).detach().requires_grad_()
    outputs = network.backbone(embedded, tokens != PAD)
    torch.stack([tap.square().sum() for tap in outputs.taps.values()]).sum().backward()
    assert embedded.grad is not None
    assert (embedded.grad[tokens == PAD] == 0).all()
    assert (embedded.grad[tokens != PAD].abs().amax(dim=1) > 0).all()


def test_embeddings_are_of_single_words(name: str) -> None:
    """`embed` holds no positions: an input gradient starts at the words themselves."""
    tokens = batch(texts([3, 3]))
    embedded = reader(name).backbone.embed(tokens)
    swapped = reader(name).backbone.embed(tokens.flip(1))
    torch.testing.assert_close(embedded, swapped.flip(1))


# Against torch's own networks


def test_gru_is_that_of_torch_over_packed_texts() -> None:
    network = reader("gru")
    whole = nn.GRU(50, 128, 2, batch_first=True)
    for number, layer in enumerate(network.backbone.layers):
        for weight in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            whole.state_dict()[f"{weight}_l{number}"].copy_(layer.state_dict()[f"{weight}_l0"])
    tokens = batch(texts(LENGTHS))
    packed = nn.utils.rnn.pack_padded_sequence(
        network.backbone.embed(tokens), torch.tensor(LENGTHS), True, enforce_sorted=False
    )
    taps = network(tokens).taps
    _, final = whole(packed)
    torch.testing.assert_close(torch.stack(list(taps.values())), final, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "bilstm"])
def test_lstm_is_that_of_torch_over_packed_texts(name: str) -> None:
    network = reader(name)
    both = name == "bilstm"
    whole = nn.LSTM(8, 128, 2, batch_first=True, bidirectional=both)
    for number, layer in enumerate(network.backbone.layers):
        for suffix, direction in (("", layer.forwards), ("_reverse", layer.backwards)):
            for weight in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                if direction is not None:
                    target = whole.state_dict()[f"{weight}_l{number}{suffix}"]
                    target.copy_(direction.state_dict()[f"{weight}_l0"])
    tokens = batch(texts(LENGTHS))
    packed = nn.utils.rnn.pack_padded_sequence(
        network.backbone.embed(tokens), torch.tensor(LENGTHS), True, enforce_sorted=False
    )
    _, (final, _) = whole(packed)  # (layers x directions, B, hidden)
    expected = final.unflatten(0, (2, -1)).transpose(1, 2).flatten(2)
    taps = network(tokens).taps
    found = torch.stack([taps["layer1"], taps["layer2"]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_transformer_is_that_of_torch_with_a_padding_mask() -> None:
    network = reader("text_transformer", blocks=2, width=24, heads=3)
    tokens = batch(texts(LENGTHS))
    x = network.backbone.embed(tokens) + network.backbone.positions.weight[: tokens.shape[1]]
    for ours in network.backbone.blocks:
        theirs = nn.TransformerEncoderLayer(24, 3, 96, 0.0, "gelu", 1e-5, True, norm_first=True)
        names = {
            "self_attn.in_proj_": "read.", "self_attn.out_proj.": "write.", "linear1.": "widen.",
            "linear2.": "narrow.", "norm1.": "norm1.", "norm2.": "norm2.",
        }  # fmt: skip
        for their_name, our_name in names.items():
            for kind in ("weight", "bias"):
                weight = ours.get_parameter(our_name + kind)
                theirs.state_dict()[their_name + kind].copy_(weight.detach())
        x = theirs(x, src_key_padding_mask=tokens == PAD)
    x = network.backbone.norm(x)
    expected = torch.stack([row[:length].mean(0) for row, length in zip(x, LENGTHS, strict=True)])
    torch.testing.assert_close(network(tokens).features, expected, rtol=0, atol=1e-5)


# Reversal


def test_rows_are_reversed_within_their_own_length() -> None:
    states = torch.tensor([[1.0, 2, 3, 9], [5, 9, 9, 9], [1, 2, 3, 4], [9, 9, 9, 9]]).unsqueeze(2)
    mask = states.squeeze(2) != 9
    mirrored = reversed_within(states, mask)
    assert mirrored.squeeze(2).tolist() == [[3, 2, 1, 9], [5, 9, 9, 9], [4, 3, 2, 1], [9, 9, 9, 9]]
    torch.testing.assert_close(reversed_within(mirrored, mask), states)


# Dropout


def test_dropout_takes_the_same_units_at_every_step() -> None:
    torch.manual_seed(0)
    dropped = StepDropout(0.5)(torch.ones(4, 6, 40)) == 0
    assert (dropped == dropped[:, :1]).all()
    assert 0.3 < dropped.float().mean() < 0.7
    assert not (dropped == dropped[:1]).all()


@pytest.mark.parametrize(
    ("name", "calls"), [("gru", 3), ("lstm", 3), ("bilstm", 3), ("text_transformer", 10)]
)
def test_masks_of_dropout_fit_texts_of_any_length(name: str, calls: int) -> None:
    """Every call reads (B, D, L), to be masked by D numbers, or the features (B, D)."""
    network = reader(name, dropout=0.2)
    widths: list[list[int]] = []

    def note(number: int, layer: nn.Module, given: Tensor) -> Tensor:
        widths[-1].append(given.shape[1])
        assert isinstance(layer, nn.Dropout1d if given.dim() == 3 else nn.Dropout)
        return given

    for length in (4, 7):
        widths.append([])
        with replaced_dropout(network.backbone, note), torch.no_grad():
            network(batch(texts([length])))
    assert widths[0] == widths[1]
    assert len(widths[0]) == calls


# Export

LONGEST = 40
SHAPES = [(1,), (7,), (7,) * 13, LENGTHS, (1, 1, 1), (LONGEST, 3), (2, 2, 19)]
OPERATORS = {"gru": ("GRU", 2), "lstm": ("LSTM", 2), "bilstm": ("LSTM", 4)}


@pytest.fixture(scope="module", params=BUILT)
def exported(request: pytest.FixtureRequest) -> tuple[str, Reader, onnx.ModelProto]:
    options = {"text_transformer": {"blocks": 2, "max_tokens": LONGEST}}
    network = reader(request.param, **options.get(request.param, {}))
    example = batch(texts([7] * 13))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's dependencies deprecate one another
        program = torch.onnx.export(
            Everything(network), (example,), dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N", min=1), 1: torch.export.Dim("L", min=1)},),
            input_names=["tokens"], output_names=list(everything(network, example)),
            opset_version=20, verbose=False,
        )  # fmt: skip
    assert program is not None
    return request.param, network, program.model_proto


def test_export(exported: tuple[str, Reader, onnx.ModelProto]) -> None:
    """Every tap and the logits at 1e-5, whatever the batch and the lengths in it."""
    name, network, model = exported
    (tokens,) = model.graph.input
    assert [dim.dim_param != "" for dim in tokens.type.tensor_type.shape.dim] == [True, True]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for lengths in SHAPES:
        read = batch(texts(lengths, seed=1))
        expected = everything(network, read)
        found = session.run(list(expected), {"tokens": read.numpy()})
        for tap, value in zip(expected, found, strict=True):
            limit = 1e-5 * max(float(expected[tap].abs().max()), 1.0)
            np.testing.assert_allclose(
                np.asarray(value), expected[tap], rtol=0, atol=limit, err_msg=f"{tap} of {lengths}"
            )
    if name in OPERATORS:  # unrolled, a graph would know one length only
        operator, count = OPERATORS[name]
        assert [node.op_type for node in model.graph.node].count(operator) == count
    else:
        with pytest.raises(Fail, match="40 by 41"):
            session.run(None, {"tokens": batch(texts([LONGEST + 1])).numpy()})


# Training


def test_learns_an_order(name: str) -> None:
    """Which of two words comes first: a bag of words cannot know."""
    options = {"hidden": 16} if name != "text_transformer" else {"width": 16, "blocks": 2}
    network = Reader(build(name, classes=2, **options)).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    labels = torch.arange(64) % 2

    def pairs(seed: int) -> Tensor:
        rows = texts(np.random.default_rng(seed).integers(4, 9, 64).tolist(), seed)
        for row, label in zip(rows, labels.tolist(), strict=True):
            row[:] = 3 + row % (WORDS - 3)
            row[[1, -1]] = [1 + label, 2 - label]
        return batch(rows)

    for step in range(120):
        loss = nn.functional.cross_entropy(network(pairs(step)).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    fresh = network(pairs(1_000)).logits
    assert (fresh.argmax(1) == labels).float().mean() > 0.95
