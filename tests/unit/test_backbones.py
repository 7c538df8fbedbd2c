"""Backbones: the published shapes, training, export, state dicts; other people's modules."""

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import DenseNet, VisionTransformer
from torchvision.models.swin_transformer import SwinTransformer

from service.bundle import ImageInput
from training.backbones import BACKBONES, TEXT_BACKBONES, TappedModule, linear_head
from training.backbones.local_weights import load_weights
from training.backbones.torchvision_models import present_name
from training.classifier import Backbone, Classifier, ImageClassifier
from training.detectors import DETECTORS
from training.export import check_parity, export_graph, open_network
from training.outputs import pooled

DOCS = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()
HERE = __name__


# Networks of other people, as `backbone = "module"` would find them.


class Stem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(images)))


class Nested(nn.Module):
    """Named layers inside named layers, in-place activations, a shared layer, an unused one."""

    def __init__(self, classes: int = 10, width: int = 6) -> None:
        super().__init__()
        self.trunk = nn.ModuleDict({"Stem": Stem(width), "more": nn.Conv2d(width, 8, 3, 2)})
        self.twice = nn.ReLU()
        self.unused = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.twice(self.trunk["more"](self.twice(self.trunk["Stem"](images))))
        return self.fc(self.drop(maps.mean(dim=(2, 3))))


class Tokens(nn.Module):
    """Patches as a sequence (B, 64, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.encode = nn.Linear(12, 12)
        self.windows = nn.Identity()
        self.both = Pair()
        self.fc = nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.encode(self.patches(images).flatten(2).transpose(1, 2))
        self.windows(tokens.reshape(-1, 12))
        self.both(tokens)
        return self.fc(tokens[:, 0])


class Pair(nn.Module):
    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens, tokens


class Softmaxed(Nested):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(dim=1)


def tiny_vit() -> VisionTransformer:
    return VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=10)


def tiny_swin() -> SwinTransformer:
    return SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=10)


def undeclared():
    return Nested()


def declared_otherwise() -> int:
    return 3


def spec_of(channels: int, side: int) -> ImageInput:
    return ImageInput(
        height=side, width=side, channels=channels, mean=(0.4,) * channels, std=(0.2,) * channels
    )


def noise(count: int, spec: ImageInput, seed: int = 0) -> Tensor:
    shape = (count, spec.height, spec.width, spec.channels)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def build(name: str, classes: int = 10, *, channels: int = 3, **options: Any) -> Backbone:
    torch.manual_seed(3)
    return BACKBONES[name](channels, classes, **options)


def weights_of(backbone: Backbone) -> int:
    assert isinstance(backbone, nn.Module)
    return sum(parameter.numel() for parameter in backbone.parameters())


def save_torch(state: dict[str, Any], file: Path) -> None:
    torch.save(state, file)


def save_safetensors(state: dict[str, Any], file: Path) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, file)


PUBLISHED = {
    "resnet_18": (
        11_173_962,
        {
            "stem": (64, 32, 32),
            "layer1": (64, 32, 32),
            "layer2": (128, 16, 16),
            "layer3": (256, 8, 8),
            "layer4": (512, 4, 4),
        },
    ),
    "resnet_34": (
        21_282_122,
        {
            "stem": (64, 32, 32),
            "layer1": (64, 32, 32),
            "layer2": (128, 16, 16),
            "layer3": (256, 8, 8),
            "layer4": (512, 4, 4),
        },
    ),
    "densenet_bc_100": (
        769_162,
        {
            "stem": (24, 32, 32),
            "trans1": (108, 16, 16),
            "trans2": (150, 8, 8),
            "final": (342, 8, 8),
        },
    ),
    "vgg_modified": (
        8_579_850,
        {
            "stage1": (128, 32, 32),
            "stage2": (256, 16, 16),
            "stage3": (256, 8, 8),
            "feature": (1024,),
        },
    ),
    "osr_cnn": (
        816_910,
        {
            "conv2": (100, 28, 28),
            "pool1": (100, 14, 14),
            "conv3": (100, 14, 14),
            "fc": (500,),
        },
    ),
    "wrn_28_10": (
        36_479_194,
        {
            "stem": (16, 32, 32),
            "group1": (160, 32, 32),
            "group2": (320, 16, 16),
            "group3": (640, 8, 8),
        },
    ),
    "wrn_40_2": (
        2_243_546,
        {
            "stem": (16, 32, 32),
            "group1": (32, 32, 32),
            "group2": (64, 16, 16),
            "group3": (128, 8, 8),
        },
    ),
    "lenet": (
        1_199_882,
        {"conv1": (32, 26, 26), "conv2": (64, 24, 24), "fc1": (128,), "logits": (10,)},
    ),
}
GREY_28 = {"lenet", "osr_cnn"}


def size_of(name: str) -> tuple[int, int]:
    """(channels, side) of the published network."""
    return (1, 28) if name in GREY_28 else (3, 32)


def test_the_published_table_is_the_registry() -> None:
    assert set(PUBLISHED) | {"graph", "module", "onnx", "timm", "torchvision"} == set(BACKBONES)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_weights_and_taps_are_the_published_ones(name: str) -> None:
    weights, shapes = PUBLISHED[name]
    channels, side = size_of(name)
    with torch.device("meta"):  # shapes only, no arithmetic
        backbone = build(name, channels=channels)
        outputs = backbone(torch.zeros(2, channels, side, side))
    assert weights_of(backbone) == weights
    assert {tap: tuple(value.shape[1:]) for tap, value in outputs.taps.items()} == shapes
    assert tuple(outputs.taps) == backbone.tap_names
    assert outputs.penultimate == backbone.penultimate
    assert outputs.features.shape == (2, backbone.head.in_features)
    assert outputs.logits.shape == (2, 10)


def test_fssd_reads_the_flat_sizes_of_its_paper() -> None:
    shapes = PUBLISHED["resnet_34"][1].values()
    assert [int(np.prod(shape)) for shape in shapes] == [65536, 65536, 32768, 16384, 8192]


def test_the_documented_table_is_the_registry() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", DOCS, re.MULTILINE))
    assert set(rows) == set(BACKBONES)
    for name, (weights, shapes) in PUBLISHED.items():
        assert f" {weights:,} " in rows[name], name
        for tap, shape in shapes.items():
            assert f"{tap} {shape[0]}" in rows[name], (name, tap)


def test_documented_options_are_options() -> None:
    blocks = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)]
    names = ["resnet_18", "torchvision", "module", "graph", "hf_encoder", "hf_classifier"]
    assert [block["backbone"] for block in blocks] == names
    for block in blocks:
        signature = inspect.signature((BACKBONES | TEXT_BACKBONES)[block["backbone"]])
        signature.bind(3, 10, **block["backbone_options"])
    bullets = re.findall(r"^- (`.*?):", DOCS, re.MULTILINE)
    listed = {name for bullet in bullets for name in re.findall(r"`(\w+)", bullet)}
    own = set(inspect.signature(BACKBONES["module"]).parameters) - {"channels", "classes"}
    texts = set(inspect.signature(TEXT_BACKBONES["hf_encoder"]).parameters)
    texts -= {"vocabulary_size", "classes", "encoder", "words"}  # those a checkpoint gives
    # these have a paragraph of their own
    assert listed == (own - {"factory", "arguments"}) | (texts - {"folder"})


# Every kind of backbone, small: same code as the published sizes, seconds instead of minutes.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "densenet": ("densenet_bc_100", {"depth": 10, "dropout": 0.1}),
    "lenet": ("lenet", {}),
    "module_nested": (
        "module",
        {"factory": f"{HERE}:Nested", "taps": ["trunk.Stem.norm", "trunk.more"]},
    ),
    "module_tokens": ("module", {"factory": f"{HERE}:Tokens", "taps": ["encode"]}),
    "module_swin": (
        "module",
        {
            "factory": f"{HERE}:tiny_swin",
            "taps": {"early": "features.1", "merged": "features.2"},
            "channels_last": True,
        },
    ),
    "module_vit": (
        "module",
        {
            "factory": f"{HERE}:tiny_vit",
            "taps": ["encoder.layers.encoder_layer_0"],
            "tokens": "class",
        },
    ),
    "osr_cnn": ("osr_cnn", {}),
    "resnet": ("resnet_18", {"blocks": [1, 1, 1, 1]}),
    "torchvision": ("torchvision", {"model": "resnet18"}),
    "vgg_modified": ("vgg_modified", {}),
    "wide_resnet": ("wrn_40_2", {"depth": 10}),
}


@pytest.fixture(params=sorted(SMALL))
def small(request: pytest.FixtureRequest) -> str:
    return request.param


def small_classifier(kind: str) -> Classifier:
    name, options = SMALL[kind]
    channels, side = size_of(name)
    backbone = build(name, channels=channels, **options)
    return ImageClassifier(backbone, spec_of(channels, side))


def settle(classifier: Classifier) -> None:
    """Batch norms have seen data and the head is not zero, as some start: else an output could
    be wrong unseen.  Ends in evaluation mode."""
    torch.manual_seed(4)
    nn.init.normal_(classifier.head.weight, std=0.2)
    classifier.train()
    with torch.no_grad():
        for seed in range(2):
            classifier(noise(8, classifier.spec, seed=seed))
    classifier.eval()


def test_logits_are_the_head_of_the_features(small: str) -> None:
    classifier = small_classifier(small)
    settle(classifier)
    with torch.no_grad():
        outputs = classifier(noise(4, classifier.spec))
        torch.testing.assert_close(classifier.head(outputs.features), outputs.logits)
    assert tuple(outputs.taps) == classifier.tap_names
    assert outputs.features is not outputs.logits
    assert all(len(value) == 4 for value in outputs.taps.values())
    assert outputs.logits.std(dim=0).min() > 0  # the input reaches the logits


def test_training_steps_lower_the_loss(small: str) -> None:
    classifier = small_classifier(small).train()
    pixels, labels = noise(8, classifier.spec), torch.arange(8)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=2e-4)
    losses: list[float] = []
    for _ in range(3):
        torch.manual_seed(0)  # the same dropout in every step, so that losses compare
        loss = nn.functional.cross_entropy(classifier(pixels).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-4, losses
    still = [n for n, p in classifier.named_parameters() if p.grad is None or not p.grad.any()]
    # this one is built to have a layer that nothing runs
    assert [name for name in still if "unused" not in name] == []


class Everything(nn.Module):
    """Logits, features and every tap as outputs of one graph."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.classifier(pixels)
        taps = {f"tap/{name}": value.flatten(1) for name, value in outputs.taps.items()}
        return {"logits": outputs.logits, "features": pooled(outputs.features)} | taps


def assert_exports(classifier: Classifier, file: Path) -> None:
    """torch = ONNX to 1e-4 relative, at batch sizes that the exporter never saw."""
    settle(classifier)
    module = Everything(classifier).eval()
    export_graph(module, classifier.spec, file)
    network = open_network(file, threads=1)
    for count in (1, 5):
        pixels = noise(count, classifier.spec, seed=count)
        with torch.no_grad():
            expected = {name: value.numpy() for name, value in module(pixels).items()}
        actual = network(pixels.numpy())
        assert set(actual) == {"logits", "features", *(f"tap/{n}" for n in classifier.tap_names)}
        check_parity(expected, actual)


# An export takes seconds; the others run in full size in the slow suite.
@pytest.mark.parametrize(
    "kind", ["densenet", "module_nested", "module_swin", "module_vit", "osr_cnn"]
)
def test_exports(kind: str, tmp_path: Path) -> None:
    classifier = small_classifier(kind)
    assert_exports(classifier, tmp_path / "graph.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_exports_in_full_size(name: str, tmp_path: Path) -> None:
    channels, side = size_of(name)
    classifier = ImageClassifier(build(name, channels=channels), spec_of(channels, side))
    assert_exports(classifier, tmp_path / "graph.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("resnet50", {}),
        ("mobilenet_v3_small", {}),
        ("efficientnet_b0", {}),
        ("convnext_tiny", {}),
        ("vit_b_16", {"image_size": 64}),
        ("swin_t", {}),
    ],
)
def test_torchvision_exports_in_full_size(
    model: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    classifier = ImageClassifier(
        build("torchvision", model=model, arguments=arguments), spec_of(3, 64)
    )
    assert_exports(classifier, tmp_path / "graph.onnx")


def test_state_dicts_round_trip(small: str, tmp_path: Path) -> None:
    """As a bundle stores them, into a network made anew from the config."""
    classifier = small_classifier(small)
    settle(classifier)
    state = classifier.backbone.state_dict()
    save_safetensors(state, tmp_path / "c")
    torch.manual_seed(99)
    name, options = SMALL[small]
    channels, _ = size_of(name)
    again = BACKBONES[name](channels, 10, **options)
    assert isinstance(again, nn.Module)
    again.load_state_dict(load_file(tmp_path / "c"))
    restored = ImageClassifier(again, classifier.spec).eval()
    pixels = noise(3, classifier.spec)
    with torch.no_grad():
        before, after = classifier(pixels), restored(pixels)
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=0)
    for tap, value in before.taps.items():
        torch.testing.assert_close(after.taps[tap], value, rtol=0, atol=0)


def test_layers_that_ask_for_their_version_load_from_files_that_cannot_tell(tmp_path: Path) -> None:
    source = build("torchvision", model="mnasnet0_5")
    assert isinstance(source, TappedModule)
    save_safetensors(source.state_dict(), tmp_path / "c.safetensors")
    torch.manual_seed(99)
    again = BACKBONES["torchvision"](3, 10, model="mnasnet0_5")
    assert isinstance(again, TappedModule)
    again.load_state_dict(load_file(tmp_path / "c.safetensors"))
    for name, value in source.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})


# Dropout, depths, sizes


def test_dropout_is_in_every_dense_layer_and_off_by_default() -> None:
    def rates(**options: Any) -> list[float]:
        backbone = build("densenet_bc_100", **options)
        assert isinstance(backbone, nn.Module)
        return [module.p for module in backbone.modules() if isinstance(module, nn.Dropout)]

    assert rates(dropout=0.2) == [0.2] * (48 + 2)
    assert set(rates()) == {0.0}


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        build("densenet_bc_100", depth=41)
    with pytest.raises(ValueError, match="four positive"):
        build("resnet_18", blocks=[2, 2, 2])
    with pytest.raises(ValueError, match="at least 8"):
        build("osr_cnn", side=4)


@pytest.mark.parametrize(("name", "side"), [("vgg_modified", 28), ("osr_cnn", 32), ("lenet", 32)])
def test_networks_of_one_size_say_so(name: str, side: int) -> None:
    backbone = build(name)
    with pytest.raises(ValueError, match=f"{name} reads .* not {side}x{side}"):
        backbone(torch.zeros(1, 3, side, side))


def test_osr_cnn_takes_cifar_images() -> None:
    outputs = build("osr_cnn", side=32)(torch.zeros(2, 3, 32, 32))
    assert outputs.features.shape == (2, 500)


def test_taps_before_and_after_relu_are_as_documented() -> None:
    """VMDLS taps the VGG's stages and the OSR network's conv2 before ReLU, conv3 after it."""
    signs = {}
    for name in ("vgg_modified", "osr_cnn", "resnet_18", "densenet_bc_100"):
        channels, side = size_of(name)
        options = {"blocks": [1] * 4} if name == "resnet_18" else {}
        backbone = build(name, channels=channels, **options)
        images = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            taps = backbone(images).taps
        signs[name] = [tap for tap, value in taps.items() if value.min() < 0]
        if name == "osr_cnn":
            pool1 = nn.functional.max_pool2d(torch.relu(taps["conv2"]), 2)
            torch.testing.assert_close(taps["pool1"], pool1, rtol=0, atol=0)
    assert signs == {
        "vgg_modified": ["stage1", "stage2", "stage3"],
        "osr_cnn": ["conv2", "fc"],
        "resnet_18": [],
        "densenet_bc_100": ["stem", "trans1", "trans2"],
    }


# torchvision


# One member of every family, and where its stages end at 224 x 224 (299 for Inception).
FAMILIES = {
    "alexnet": [(64, 55), (192, 27), (256, 13)],
    "convnext_tiny": [(96, 56), (192, 28), (384, 14)],
    "efficientnet_b0": [(16, 112), (24, 56), (40, 28), (112, 14)],
    "googlenet": [(64, 112), (192, 56), (480, 28), (832, 14)],
    "mobilenet_v3_small": [(16, 112), (16, 56), (24, 28), (48, 14)],
    "resnet50": [(64, 112), (256, 56), (512, 28), (1024, 14)],
    "shufflenet_v2_x0_5": [(24, 112), (48, 28), (96, 14), (192, 7)],
    "swin_t": [(96, 56), (192, 28), (384, 14)],
    "vgg11_bn": [(64, 224), (128, 112), (256, 56), (512, 28), (512, 14)],
    "vit_b_16": [(768, 1)] * 3,
}
SLOWER_FAMILIES = {
    "densenet121": [(64, 112), (128, 28), (256, 14), (512, 7)],
    "inception_v3": [(64, 147), (192, 71), (288, 35), (768, 17)],
    "maxvit_t": [(64, 112), (64, 56), (128, 28), (256, 14)],
    "mnasnet0_5": [(8, 112), (16, 56), (24, 28), (48, 14)],
    "mobilenet_v2": [(16, 112), (24, 56), (32, 28), (96, 14)],
    "swin_v2_t": [(96, 56), (192, 28), (384, 14)],
}


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        *FAMILIES.items(),
        *(pytest.param(*item, marks=pytest.mark.slow) for item in SLOWER_FAMILIES.items()),
    ],
)
def test_torchvision_classifiers_are_tapped_where_stages_end(
    model: str, stages: list[tuple[int, int]]
) -> None:
    side = 299 if model == "inception_v3" else 224
    with torch.device("meta"):
        backbone = build("torchvision", 7, model=model)
        assert isinstance(backbone, TappedModule)
        outputs = backbone.eval()(torch.zeros(2, 3, side, side))
        if model in ("googlenet", "inception_v3"):  # these give an object while training
            assert backbone.train()(torch.zeros(2, 3, side, side)).logits.shape == (2, 7)
    *layers, features = outputs.taps.values()
    assert [(tap.shape[1], tap.shape[2] if tap.dim() == 4 else 1) for tap in layers] == stages
    assert features.shape == (2, backbone.head.in_features)
    assert backbone.head.out_features == 7
    # score names that a manifest takes
    assert all(re.fullmatch(r"[a-z0-9_]{1,40}", tap) for tap in backbone.tap_names)


@pytest.mark.slow
def test_regnet_is_tapped_too() -> None:
    """It cannot be made on the meta device."""
    outputs = build("torchvision", 7, model="regnet_x_400mf").__call__(torch.zeros(2, 3, 64, 64))
    assert [tap.shape[1] for tap in outputs.taps.values()] == [32, 32, 64, 160, 400]


def test_torchvision_taps_can_be_chosen() -> None:
    options = {"model": "resnet18", "taps": ["layer1.0.bn2", "layer3"]}
    with torch.device("meta"):
        backbone = build("torchvision", **options)
        outputs = backbone(torch.zeros(2, 3, 64, 64))
    assert list(outputs.taps) == ["layer1_0_bn2", "layer3", "penultimate"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet5"}, "no classifier 'resnet5'; near: .*resnet50"),
        ({"model": "fcn_resnet50"}, "no classifier 'fcn_resnet50'"),
        ({"model": "squeezenet1_1"}, "SqueezeNet has no nn.Linear"),
        ({"model": "resnet18", "arguments": {"weights": "DEFAULT"}}, "cannot be in arguments"),
        ({"model": "resnet18", "arguments": {"depth": 3}}, "refuses the arguments: .*depth"),
        ({"model": "resnet18", "taps": ["layer5"]}, "no layer 'layer5'; near: .*layer4"),
        ({"model": "resnet18", "weights": "/nowhere/r.pth"}, "nothing is downloaded"),
        ({"model": "resnet18", "weights": "${NOT_SET_HERE}/r"}, "a variable in it is not set"),
    ],
)
def test_torchvision_refusals(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        build("torchvision", **options)
    with pytest.raises(ValueError, match="reads 3 channels, not 1: set channels = 3"):
        build("torchvision", channels=1, model="resnet18")


# Weights from a file


@pytest.mark.parametrize(
    ("model", "file_name", "save"),
    [
        ("shufflenet_v2_x0_5", "w.pth", save_torch),
        ("mnasnet0_5", "w.safetensors", save_safetensors),
    ],
)
def test_local_weights(model: str, file_name: str, save: Any, tmp_path: Path) -> None:
    source = build("torchvision", 7, model=model)
    assert isinstance(source, TappedModule)
    file = tmp_path / file_name
    save(source.module.state_dict(), file)
    torch.manual_seed(50)
    loaded = BACKBONES["torchvision"](3, 7, model=model, weights=str(file))
    assert isinstance(loaded, TappedModule)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)

    with pytest.raises(ValueError, match=r"size mismatch for (classifier|fc).*fresh_head = true"):
        BACKBONES["torchvision"](3, 4, model=model, weights=str(file))
    other = BACKBONES["torchvision"](3, 4, model=model, weights=str(file), fresh_head=True)
    assert isinstance(other, TappedModule)
    assert other.head.out_features == 4
    trunk = {
        name: value
        for name, value in source.state_dict().items()
        if not name.startswith(f"module.{source.head_name}.")
    }
    assert len(trunk) == len(source.state_dict()) - 2
    for name, value in trunk.items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)


def test_old_densenet_files_and_files_without_batch_counts_load(tmp_path: Path) -> None:
    def tiny() -> DenseNet:
        return DenseNet(4, (1, 1), 8, num_classes=7)

    source, other = tiny(), tiny()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value
        for name, value in source.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    save_file(old, tmp_path / "old.safetensors")
    load_weights(other, str(tmp_path / "old.safetensors"), head="classifier", rename=present_name)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Nested().state_dict()

    def load(contents: object) -> None:
        file = tmp_path / "w.pt"
        torch.save(contents, file)
        monkeypatch.setenv("WEIGHTS_FOLDER", str(tmp_path))
        build("module", factory=f"{HERE}:Nested", taps=[], weights="${WEIGHTS_FOLDER}/w.pt")

    load(state)
    lacking = {name: value for name, value in state.items() if name != "fc.bias"}
    with pytest.raises(ValueError, match=r"lacks \['fc.bias'\], has unknown nothing"):
        load(lacking)
    with pytest.raises(ValueError, match=r"lacks nothing, has unknown \['extra'\]"):
        load(dict(state) | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"keys \['epoch', 'model'\], not a state dict"):
        load({"epoch": 3, "model": dict(state)})
    with pytest.raises(ValueError, match="no state dict of tensors saved"):
        load({"weight": Evil()})
    assert "unpickled" not in capsys.readouterr().out
    (tmp_path / "w.safetensors").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="is no safetensors file"):
        build(
            "module",
            factory=f"{HERE}:Nested",
            taps=[],
            weights=str(tmp_path / "w.safetensors"),
        )


# Modules of other people


def images(seed: int = 0) -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_nested_layers_are_tapped_as_they_were_before_in_place_activations() -> None:
    module = Nested()
    tapped = TappedModule(module, ["trunk.Stem.norm", "trunk.Stem", "trunk.more"]).eval()
    assert tapped.tap_names == ("trunk_stem_norm", "trunk_stem", "trunk_more", "penultimate")
    assert tapped.head is module.fc
    outputs = tapped(images())
    stem = module.trunk["Stem"]
    norm = stem.norm(stem.conv(images()))
    assert norm.min() < 0
    more = module.trunk["more"](torch.relu(norm))
    expected = {
        "trunk_stem_norm": norm,
        "trunk_stem": torch.relu(norm),
        "trunk_more": more,
        "penultimate": torch.relu(more).mean(dim=(2, 3)),
    }
    assert list(outputs.taps) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(outputs.taps[name], value)
    torch.testing.assert_close(outputs.logits, module(images()))


def test_no_hook_stays_behind_even_after_an_error() -> None:
    module = Nested()
    tapped = TappedModule(module, ["trunk.more"])
    tapped(images())
    with pytest.raises(RuntimeError):
        tapped(torch.zeros(1, 5, 32, 32))
    assert all(not layer._forward_hooks for layer in module.modules())


def test_gradients_flow_through_taps_to_the_input() -> None:
    probe = images().requires_grad_()
    outputs = TappedModule(Nested(), ["trunk.Stem.norm"]).eval()(probe)
    (gradient,) = torch.autograd.grad(outputs.taps["trunk_stem_norm"].square().sum(), probe)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(("tokens", "shape"), [("map", (12, 64, 1)), ("class", (12,))])
def test_token_sequences(tokens: Any, shape: tuple[int, ...]) -> None:
    module = Tokens()
    tap = TappedModule(module, ["encode"], tokens=tokens)(images()).taps["encode"]
    assert tap.shape[1:] == shape
    given = module.encode(module.patches(images()).flatten(2).transpose(1, 2))
    expected = given.mean(dim=1) if tokens == "map" else given[:, 0]
    torch.testing.assert_close(pooled(tap), expected)


def test_channels_last_maps_are_turned() -> None:
    swin = tiny_swin().eval()
    taps = TappedModule(swin, ["features.1"], channels_last=True)(images()).taps
    assert taps["features_1"].shape == (3, 8, 8, 8)
    given = swin.features[1](swin.features[0](images()))
    torch.testing.assert_close(pooled(taps["features_1"]), given.mean(dim=(1, 2)))


def test_an_object_with_logits_will_do() -> None:
    class Answer:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Answering(Nested):
        def forward(self, images: Tensor) -> Any:
            return Answer(super().forward(images))

    assert TappedModule(Answering(), [])(images()).logits.shape == (3, 10)


def test_the_head_is_found_or_refused() -> None:
    assert linear_head(Nested()) == "fc"
    with torch.device("meta"):
        vit = tiny_vit()
    assert linear_head(vit) == "heads.head"
    with pytest.raises(ValueError, match=r"Sequential has no nn\.Linear"):
        linear_head(nn.Sequential(nn.Conv2d(3, 4, 1)))
    attention = nn.Sequential(nn.MultiheadAttention(4, 1))
    with pytest.raises(ValueError, match=r"no nn\.Linear"):  # its projection is never called
        linear_head(attention)


class Reversed(nn.Module):
    """The head is registered before a layer that runs earlier."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 10)
        self.first = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(images.mean(dim=(2, 3)))))


def test_a_head_that_is_not_registered_last_can_be_named() -> None:
    with pytest.raises(ValueError, match=r"something else than its head 'first'.*last, first"):
        TappedModule(Reversed(), [])(images())
    assert TappedModule(Reversed(), ["first"], "last")(images()).features.shape == (3, 5)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (Nested, {"taps": ["trunk.Stam.norm"]}, "near: trunk.Stem.norm.*there are: .*fc"),
        (Nested, {"taps": [""]}, "no layer ''"),
        (Nested, {"taps": ["fc"]}, "is or holds the head"),
        (Nested, {"taps": ["trunk.more", "trunk.more"]}, "two taps would be called 'trunk_more'"),
        (Nested, {"taps": {"penultimate": "trunk.more"}}, "two taps would be called"),
        (Nested, {"taps": {"Stem": "trunk.Stem"}}, "1 to 40 of a-z"),
        (Nested, {"taps": {"x" * 41: "trunk.Stem"}}, "1 to 40 of a-z"),
        (Nested, {"taps": [], "head": "fd"}, "no layer 'fd'; near: fc"),
        (Nested, {"taps": [], "head": "drop"}, "is a Dropout, not an nn.Linear; .*unused, fc"),
        (Nested, {"taps": [], "tokens": "first"}, "choose map or class"),
    ],
)
def test_wrong_names_are_refused_at_once(
    module: type[nn.Module], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TappedModule(module(), **arguments)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (Nested, {"taps": ["twice"]}, "'twice' runs more than once"),
        (Nested, {"taps": ["unused"]}, "'unused' did not run"),
        (Nested, {"taps": [], "head": "unused"}, "'unused' did not run"),
        (Nested, {"taps": ["trunk.more", "trunk.Stem"]}, "network order, .*Stem', 'trunk.more'"),
        (Softmaxed, {"taps": []}, "something else than its head 'fc'"),
        (Tokens, {"taps": [], "head": "encode"}, r"reads \(3, 64, 12\); it must read \(B, D\)"),
        (Tokens, {"taps": ["windows"]}, r"\(192, 12\) for a batch of 3"),
        (Tokens, {"taps": ["both"]}, "'both' gives a tuple"),
    ],
)
def test_layers_that_cannot_be_tapped_are_refused_when_they_run(
    module: type[nn.Module], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TappedModule(module(), **arguments)(images())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factory": "nowhere"}, "not of the form package.module:callable"),
        ({"factory": "no_such_package.nets:Net"}, "cannot be imported .*PYTHONPATH"),
        ({"factory": f"{HERE}:Nestde"}, "there is no Nestde; there are: .*Nested"),
        ({"factory": f"{HERE}:undeclared"}, "write `-> nn.Module`"),
        ({"factory": f"{HERE}:declared_otherwise"}, "write `-> nn.Module`"),
        ({"factory": "os:system", "arguments": {"command": "false"}}, "neither a class of"),
        (
            {"factory": f"{HERE}:Nested", "arguments": {"depth": 2}},
            "refuses the arguments: .*depth",
        ),
        ({"factory": f"{HERE}:Nested", "arguments": {"classes": 7}}, "7 logits, .* 10 classes"),
    ],
)
def test_factories_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("module", taps=[], **options)


def test_detectors_score_a_module_of_someone_else(tmp_path: Path) -> None:
    """Tap names become buffers and score names of every detector that reads layers."""
    spec = spec_of(3, 32)
    backbone = build("module", factory=f"{HERE}:Tokens", taps=["patches", "encode"])
    classifier = ImageClassifier(backbone, spec).eval()
    for name in ("mahalanobis", "fssd"):
        options = {"noise_count": 20} if name == "fssd" else {}
        detector = DETECTORS[name](**options)
        detector.prepare(classifier)
        with torch.no_grad():
            outputs = classifier(noise(60, spec))
            detector.observe(outputs, torch.arange(60) % 10)
            detector.finish()
            scores = detector(outputs)
        assert {name, f"{name}_patches", f"{name}_encode"} <= set(scores)
        assert all(value.shape == (60,) and value.isfinite().all() for value in scores.values())
