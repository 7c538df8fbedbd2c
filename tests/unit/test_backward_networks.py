"""Whole networks, exported by torch: gradients and perturbed replays against autograd."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_backward_harness import LOWERINGS, assert_as_autograd, normal, run
from torch import Tensor, nn
from torch.nn import functional as F

from training.export.backward import Graph, Lowering


class Residual(nn.Module):
    """Stem, overlapping pool, two pre-activation blocks, the second strided, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(16)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, s, 1, bias=False) for s in (1, 2))
        self.shortcut = nn.Conv2d(16, 16, 1, 2, bias=False)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem(x))), 3, 2, 1)
        x = x + self.convs[0](F.relu(self.norms[0](x)))
        active = F.relu(self.norms[1](x))
        x = self.shortcut(active) + self.convs[1](active)
        return self.fc(x.mean((2, 3)))


class Dense(nn.Module):
    """Dense blocks by concatenation, transitions by mean pooling, plain pool at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3))
        self.grow = nn.ModuleList(nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.transition = nn.Conv2d(20, 8, 1)
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.grow, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = F.avg_pool2d(self.transition(x), 2)
        return self.fc(F.max_pool2d(x, 2).flatten(1))


class Mobile(nn.Module):
    """An inverted bottleneck with squeeze and excitation, relu6 and hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 5, 2, 2, groups=16)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.project = nn.Conv2d(16, 6, 1)
        self.norm = nn.GroupNorm(2, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.expand(x))
        x = F.hardswish(self.depthwise(x))
        gate = F.adaptive_avg_pool2d(x, 1)
        x = x * F.hardsigmoid(self.excite(F.silu(self.squeeze(gate))))
        return self.fc(F.leaky_relu(self.norm(self.project(x))).amax((2, 3)))


class Attention(nn.Module):
    """A vision transformer of one block: patches, class token, attention, Gelu."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 10, 16) * 0.1)
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.fc(self.norm(self.block(x))[:, 0])


class Sequence(nn.Module):
    """Causal attention over sequences of any length, written out; mean over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / 2
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, 8))
        return self.fc(F.gelu(x[:, 1:], approximate="tanh").mean(1)).log_softmax(-1)


IMAGE = (3, 12, 12)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "dense": (Dense, (3, 8, 8)),
    "mobile": (Mobile, IMAGE),
    "attention": (Attention, IMAGE),
    "sequence": (Sequence, (6, 8)),
}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """The network in eval mode, with statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    return network


Exported = tuple[onnx.ModelProto, nn.Module, tuple[int, ...]]


@functools.cache
def export(name: str) -> Exported:
    """The network by the exporter of torch, and itself in float64."""
    build, shape = NETWORKS[name]
    network = seeded(build)
    dims = {0: "N", 1: "T"} if name == "sequence" else {0: "N"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's dependencies deprecate one another
        program = torch.onnx.export(
            network, (torch.randn(13, *shape),), dynamo=True, dynamic_shapes=(dims,),
            input_names=["x"], output_names=["y"], opset_version=20, verbose=False,
        )  # fmt: skip
    assert program is not None
    return program.model_proto, network.double(), shape


@pytest.fixture(params=NETWORKS)
def exported(request: pytest.FixtureRequest) -> Exported:
    return export(request.param)


def test_gradient(exported: Exported) -> None:
    model, network, shape = exported
    assert_as_autograd(model, network, lambda n: normal(n, *shape), tolerance=2e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_perturbed_replay(exported: Exported, lowering: Lowering) -> None:
    """The use: a step along the gradient's sign, then the network once more."""
    model, network, shape = exported
    graph = Graph.from_model(model)
    dx = graph.backward({"y": "y"}, "x", lowering)
    step = graph.add("Mul", [graph.add("Sign", [dx]), graph.constant(np.float32(0.05))])
    (again,) = graph.replay({"x": graph.add("Add", ["x", step])}, ["y"])
    x = normal(7, *shape)
    (value,) = run(graph.to_model({"again": again}), {"x": x})
    leaf = torch.from_numpy(x).double().requires_grad_()
    y = network(leaf)
    y.backward(y.detach())
    assert leaf.grad is not None
    expected = network(leaf.detach() + 0.05 * leaf.grad.sign()).detach().numpy()
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
    assert np.abs(expected - y.detach().numpy()).max() > 0.01


def test_engines_fold_the_rearranged_weights(tmp_path: Path) -> None:
    """onnxruntime leaves no trace of flips and phases, and merges the slope of the norms."""
    graph = Graph.from_model(export("residual")[0])
    model = graph.to_model({"dx": graph.backward({"y": "y"}, "x", "cpu")})
    written = {node.op_type for node in model.graph.node}
    assert {"Slice", "Transpose", "Pad"} <= written
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    left = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert not {"Slice", "Transpose", "Pad"} & set(left)
