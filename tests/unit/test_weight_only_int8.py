"""Weights in eight bits: the rounding by formula, what stays, files and graphs."""

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.backbones.weight_only_int8 import quantise_weights
from training.export.shared_weights import share_weights


class Reader(nn.Module):
    """Large enough for the exporter not to compute its weights beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(400, 64)
        self.widen = nn.Linear(64, 256)
        self.norm = nn.LayerNorm(256)
        self.head = nn.Linear(256, 5)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.norm(torch.relu(self.widen(self.words(tokens))).mean(1)))}


TOKENS = torch.arange(12).view(3, 4)


@pytest.fixture
def reader() -> Reader:
    torch.manual_seed(0)
    network = Reader().eval()
    with torch.no_grad():
        network.widen.weight[7] = 0
        network.widen.weight[8] *= 1000
    return network


def quantised(network: Reader) -> Reader:
    found = copy.deepcopy(network)
    quantise_weights(found, keep=found.head)
    return found


def test_every_weight_moves_half_a_step_of_its_row_at_most(reader: Reader) -> None:
    found = quantised(reader)
    for name in ("words", "widen"):
        before = reader.get_submodule(name).weight.detach().numpy().astype(np.float64)
        after = found.get_submodule(name).weight.detach().numpy()
        step = np.abs(before).max(axis=1, keepdims=True) / 127
        assert (np.abs(after - before) <= step / 2 + 1e-6 * step).all()
        expected = np.round(before / np.where(step > 0, step, 1)) * step
        np.testing.assert_allclose(after, expected, rtol=1e-6, atol=0)
    assert not found.widen.weight[7].any()


def test_head_biases_and_norms_stay(reader: Reader) -> None:
    found = quantised(reader)
    kept = ("head.weight", "head.bias", "widen.bias", "norm.weight", "norm.bias")
    for name in kept:
        assert torch.equal(found.get_parameter(name), reader.get_parameter(name))
    assert isinstance(found.widen, nn.Linear)


def test_the_values_of_the_network_hardly_move(reader: Reader) -> None:
    logits, before = quantised(reader)(TOKENS)["logits"], reader(TOKENS)["logits"]
    assert 0 < (logits - before).abs().max() < 0.02 * before.abs().max()


def test_a_second_rounding_changes_nothing(reader: Reader) -> None:
    once = quantised(reader)
    again = Reader().eval()
    weights = {name: once.get_submodule(name).weight for name in ("words", "widen")}
    again.load_state_dict(
        reader.state_dict() | {f"{name}.weight": value for name, value in weights.items()}
    )
    torch.testing.assert_close(quantised(again)(TOKENS), once(TOKENS), rtol=1e-6, atol=1e-6)


def test_a_file_holds_eight_bits_and_brings_the_same_network_back(
    reader: Reader, tmp_path: Path
) -> None:
    found = quantised(reader)
    save_file(found.state_dict(), tmp_path / "small.safetensors")
    save_file(reader.state_dict(), tmp_path / "large.safetensors")
    values = 400 * 64 + 256 * 64
    saved = (tmp_path / "large.safetensors").stat().st_size
    assert saved - (tmp_path / "small.safetensors").stat().st_size > 0.7 * 3 * values
    restored = Reader().eval()
    quantise_weights(restored, keep=restored.head)
    restored.load_state_dict(load_file(tmp_path / "small.safetensors"))
    torch.testing.assert_close(restored(TOKENS), found(TOKENS), rtol=0, atol=0)


def test_gradients_pass_to_the_inputs(reader: Reader) -> None:
    found = quantised(reader)
    given = torch.randn(2, 64, requires_grad=True)
    found.widen(given).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad[0], found.widen.weight.sum(dim=0))


def test_a_network_of_nothing_but_its_head_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="eight bits"):
        quantise_weights(network, keep=network[0])


def test_a_graph_reads_the_bytes_of_the_checkpoint(reader: Reader, tmp_path: Path) -> None:
    """torch = ONNX, and no second copy of the weights, rounded or not, anywhere."""
    found = quantised(reader)
    path, checkpoint = tmp_path / "forward.onnx", tmp_path / "checkpoint.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's dependencies deprecate one another
        torch.onnx.export(
            found, (TOKENS,), str(path), dynamo=True, dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=["tokens"], output_names=["logits"], opset_version=20, verbose=False,
            external_data=False,
        )  # fmt: skip
    save_file(found.state_dict(), checkpoint)
    share_weights([path], [checkpoint])
    constants = onnx.load(path, load_external_data=False).graph.initializer
    eight = [each for each in constants if each.data_type == onnx.TensorProto.INT8]
    assert [list(each.dims) for each in eight] == [[400, 64], [256, 64]]
    for each in eight:
        places = {entry.key: entry.value for entry in each.external_data}
        assert places["location"] == checkpoint.name
    floats = [each for each in constants if each.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(each.dims)) for each in floats) == 5 * 256
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"tokens": TOKENS.numpy()})
    np.testing.assert_allclose(logits, found(TOKENS)["logits"].detach().numpy(), atol=1e-5)
