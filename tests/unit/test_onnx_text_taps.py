"""What is tapped of ONNX graphs of texts: sequences of any layout, at the ends of layers."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from own_models import mean_of_text
from torch import Tensor, nn

from training.backbones.given_files import tap_names
from training.backbones.onnx_text_model import OnnxTextModel

WORDS, PAD = 30, 0
IDS = torch.tensor([[2, 5, 9, 4, 3], [2, 7, 3, PAD, PAD], [2, 3, PAD, PAD, PAD]])


class Recurrent(nn.Module):
    """ONNX's recurrent layers give their states time first."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 6)
        self.layers = nn.ModuleList(nn.GRU(6, 6, batch_first=True) for _ in range(4))
        self.answer = nn.Linear(6, 3)

    def states(self, ids: Tensor) -> list[Tensor]:
        found = [self.words(ids)]
        for layer in self.layers:
            found.append(layer(found[-1])[0])
        return found[1:]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        last = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, 6)
        return self.answer(self.states(ids)[-1].gather(1, last).squeeze(1))


class Convolutional(nn.Module):
    """Channels before tokens, (N, D, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 6)
        self.layers = nn.ModuleList(nn.Conv1d(6, 6, 3, padding=1) for _ in range(4))
        self.answer = nn.Linear(6, 3)

    def maps(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        own = mask[:, None].float()
        found = [self.words(ids).transpose(1, 2) * own]
        for layer in self.layers:
            found.append(torch.tanh(layer(found[-1])) * own)
        return found[1:]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.answer(self.maps(ids, mask)[-1].amax(2))


class FirstToken(nn.Module):
    """Projected embeddings, mixed by what stands before; the head reads the first token, which is
    the same word in every text."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 4)
        self.project = nn.Linear(4, 6)
        self.layers = nn.ModuleList(nn.Linear(12, 6) for _ in range(4))
        self.answer = nn.Linear(6, 3)

    def states(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        found = [self.project(self.words(ids))]
        for layer in self.layers:
            around = mean_of_text(found[-1], mask)[:, None].expand_as(found[-1])
            found.append(found[-1] + torch.tanh(layer(torch.cat([found[-1], around], 2))))
        return found[1:]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.answer(torch.tanh(self.states(ids, mask)[-1][:, 0]))


def exported(network: nn.Module, file: Path) -> str:
    examples = tuple(torch.ones(3, 5, dtype=torch.int64) for _ in range(2))
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is old: so are many files
        torch.onnx.export(
            network,
            examples,
            str(file),
            dynamo=False,
            opset_version=14,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={name: {0: "N", 1: "L"} for name in names},
        )
    return str(file)


@pytest.mark.parametrize("kind", [Recurrent, Convolutional, FirstToken])
@torch.no_grad()
def test_taps_are_the_ends_of_layers(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    file = exported(network, tmp_path / "network.onnx")
    mask = IDS != PAD
    choice = OnnxTextModel(WORDS, 3, file=file).survey(IDS, mask).choice
    assert choice is not None
    pooling = "cls" if choice.tokens == "class" else "mean"
    assert pooling == ("cls" if kind is FirstToken else "mean")
    model = OnnxTextModel(WORDS, 3, file=file, taps=tap_names(choice.taps), pooling=pooling)
    *taps, _ = model(IDS, mask).taps.values()
    if isinstance(network, Recurrent):
        states = network.states(IDS)
    elif isinstance(network, Convolutional):
        states = [each.transpose(1, 2) for each in network.maps(IDS, mask)]
    else:
        assert isinstance(network, FirstToken)
        states = network.states(IDS, mask)
    pooled = [each[:, 0] if pooling == "cls" else mean_of_text(each, mask) for each in states]
    assert len(taps) == 3
    for given, wanted in zip(taps, pooled[:3], strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-6)


def test_what_is_no_vector_a_text_is_no_tap(tmp_path: Path) -> None:
    file = exported(Recurrent(), tmp_path / "network.onnx")
    with pytest.raises(ValueError, match="has no tensors"):
        OnnxTextModel(WORDS, 3, file=file, taps={"early": "nowhere"})
    states = next(node.output[0] for node in onnx.load(file).graph.node if node.op_type == "GRU")
    with pytest.raises(ValueError, match="the tap early, is neither a vector nor a sequence"):
        OnnxTextModel(WORDS, 3, file=file, taps={"early": states})  # (L, directions, N, D)
