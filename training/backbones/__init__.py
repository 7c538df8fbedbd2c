"""Networks by name.  A new backbone is one file and one line here."""

from collections.abc import Callable
from functools import partial

from training.backbones.densenet import DenseNet
from training.backbones.graph_model import graph_model
from training.backbones.gru import Gru
from training.backbones.hf_classifier import HuggingFaceClassifier
from training.backbones.hf_encoder import HuggingFaceEncoder
from training.backbones.imported_module import imported_module
from training.backbones.latent import LatentNetwork
from training.backbones.lenet import LeNet
from training.backbones.lstm import Lstm
from training.backbones.onnx_model import onnx_model
from training.backbones.onnx_text_model import OnnxTextModel
from training.backbones.osr_cnn import OsrCnn
from training.backbones.resnet import ResNet
from training.backbones.tapped import TappedModule, linear_head
from training.backbones.text_transformer import TextTransformer
from training.backbones.timm_models import timm_model
from training.backbones.torchvision_models import torchvision_model
from training.backbones.vgg_modified import ModifiedVgg
from training.backbones.wide_resnet import WideResNet
from training.classifier import Backbone
from training.text_backbone import TextBackbone

# (channels, classes, **options of the config)
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "densenet_bc_100": partial(DenseNet, depth=100),
    "graph": graph_model,
    "lenet": LeNet,
    "module": imported_module,
    "onnx": onnx_model,
    "osr_cnn": OsrCnn,
    "resnet_18": partial(ResNet, blocks=(2, 2, 2, 2)),
    "resnet_34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "timm": timm_model,
    "torchvision": torchvision_model,
    "vgg_modified": ModifiedVgg,
    "wrn_28_10": partial(WideResNet, depth=28, width=10),
    "wrn_40_2": partial(WideResNet, depth=40, width=2),
}

# (vocabulary_size, classes, **options of the config)
TEXT_BACKBONES: dict[str, Callable[..., TextBackbone]] = {
    "bilstm": partial(Lstm, bidirectional=True),
    "gru": Gru,
    "hf_classifier": HuggingFaceClassifier,
    "hf_encoder": HuggingFaceEncoder,
    "lstm": Lstm,
    "onnx": OnnxTextModel,
    "text_transformer": TextTransformer,
}

__all__ = ["BACKBONES", "TEXT_BACKBONES", "LatentNetwork", "TappedModule", "linear_head"]
