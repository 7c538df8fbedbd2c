"""What a person names as the network -> a backbone of the config, and what its inputs are.

    shop.networks:Sorter    a class or function of yours, with --weights
    torchvision:resnet50    a classifier of torchvision, with --weights
    timm:resnet50           one of timm, where that is installed, with --weights
    sorter.pt2              a file of torch.export; .pt, .pth or .ts: of TorchScript
    sorter.onnx             a classifier of images or texts that is an ONNX graph already
    FOLDER                  a Hugging Face classifier, as save_pretrained writes it

Nothing is downloaded and nothing is unpickled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from service.bundle import ImageInput, Modality
from training.backbones.onnx_model import input_size
from training.backbones.onnx_text_model import reads_tokens
from training.backbones.timm_models import input_recipe
from training.backbones.torchvision_models import check_name
from training.config import FileTokenizer, TextConfig

Resize = Literal["stretch", "center_crop", "pad"]
_MAX_TOKENS = 128
_TOKENIZER = "tokenizer.json"
_FILES = {".onnx": "onnx", ".pt2": "graph", ".pt": "graph", ".pth": "graph", ".ts": "graph"}


@dataclass(frozen=True)
class Network:
    """backbone, options: of the config; class_names: in the order of the logits, where known.

    `surveyed`: its layers are found by running it.
    """

    backbone: str
    options: Mapping[str, Any]
    form: ImageInput | TextConfig
    class_names: tuple[str, ...]
    said: str
    surveyed: bool = True

    @property
    def modality(self) -> Modality:
        return "text" if isinstance(self.form, TextConfig) else "image"


@dataclass(frozen=True)
class ImageFlags:
    """What was said of the images; None: derived from the network, where it says."""

    size: tuple[int, int] | None = None  # height, width
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: Resize | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None


@dataclass(frozen=True)
class NetworkFlags:
    """weights: a file of a state dict; arguments: of the constructor."""

    weights: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    images: ImageFlags = ImageFlags()
    max_tokens: int | None = None
    tokenizer: str | None = None


def network_of(given: str, flags: NetworkFlags) -> Network:
    """ValueError where the name, its files or the flags do not fit together."""
    network = _network_of(given, flags)
    of_texts = {"--max-tokens": flags.max_tokens, "--tokenizer": flags.tokenizer}
    of_images = {f"--{name}": value for name, value in vars(flags.images).items()}
    reads, others = ("texts", of_images) if network.modality == "text" else ("images", of_texts)
    if strange := [flag for flag, value in others.items() if value is not None]:
        raise ValueError(f"{network.said} reads {reads}; leave {', '.join(strange)} out")
    return network


def _network_of(given: str, flags: NetworkFlags) -> Network:
    if Path(given).is_dir():
        return _hugging_face(Path(given), flags)
    kind = _FILES.get(Path(given).suffix.lower())
    if kind is not None and ":" not in given:
        return _of_file(kind, given, flags)
    library, colon, name = given.partition(":")
    if not colon:
        raise ValueError(
            f"{given}: no folder of a Hugging Face classifier, and not of the form "
            "package.module:callable, torchvision:NAME or timm:NAME"
        )
    if flags.weights is None:
        raise ValueError(f"{given}: name the file of its trained weights with --weights")
    if library == "torchvision":
        return _torchvision(name, flags)
    if library == "timm":
        return _timm(name, flags)
    return _module(given, flags)


def _of_file(backbone: str, file: str, flags: NetworkFlags) -> Network:
    if flags.weights is not None or flags.arguments:
        raise ValueError(f"{file}: brings its weights; leave --weights and --arguments out")
    if backbone == "onnx" and reads_tokens(file):
        return _onnx_of_texts(Path(file), flags)
    size = input_size(file) if backbone == "onnx" else None
    known = {} if size is None else {"size": size}
    form = _image_input(flags.images, known, file)
    return Network(backbone, {"file": file}, form, tuple(flags.class_names), Path(file).name)


def _onnx_of_texts(file: Path, flags: NetworkFlags) -> Network:
    """Its tokenizer.json stands beside it, as that of an export, or is named."""
    tokenizer = Path(flags.tokenizer or file.parent / _TOKENIZER)
    if not tokenizer.is_file():
        raise ValueError(
            f"{file}: reads token ids, so a tokenizer is needed, and there is no {tokenizer}; put "
            f"the {_TOKENIZER} of its training beside it, or name it with --tokenizer"
        )
    described = _json(file.parent / "config.json")
    names = tuple(flags.class_names) or _labels(described)
    form = _text_input(tokenizer, described, flags)
    return Network("onnx", {"file": str(file)}, form, names, file.name)


def _module(factory: str, flags: NetworkFlags) -> Network:
    options = _with_arguments({"factory": factory, "weights": flags.weights}, flags)
    form = _image_input(flags.images, {}, factory)
    return Network("module", options, form, tuple(flags.class_names), factory)


def _timm(name: str, flags: NetworkFlags) -> Network:
    form = _image_input(flags.images, input_recipe(name), f"timm's {name}")
    options = _with_arguments({"model": name, "weights": flags.weights}, flags)
    return Network("timm", options, form, tuple(flags.class_names), f"timm's {name}")


def _with_arguments(options: dict[str, Any], flags: NetworkFlags) -> dict[str, Any]:
    return options | ({"arguments": dict(flags.arguments)} if flags.arguments else {})


def _torchvision(name: str, flags: NetworkFlags) -> Network:
    preset = next(iter(check_name(name).get_model_weights(name))).transforms()
    side = preset.crop_size[0]
    known = {
        "size": (side, side),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "resize": "center_crop",
        "interpolation": preset.interpolation.value,
    }
    options = _with_arguments({"model": name, "weights": flags.weights}, flags)
    form = _image_input(flags.images, known, f"torchvision's {name}")
    return Network("torchvision", options, form, tuple(flags.class_names), f"torchvision's {name}")


def _hugging_face(folder: Path, flags: NetworkFlags) -> Network:
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{folder}: has no config.json, so it is no Hugging Face classifier")
    if flags.weights is not None or flags.tokenizer is not None:
        raise ValueError(f"{folder}: brings both; leave --weights and --tokenizer out")
    described = _json(config)
    names = tuple(flags.class_names) or _labels(described)
    tokenizer = folder / _TOKENIZER
    if not tokenizer.is_file():
        raise ValueError(
            f"{folder}: has no tokenizer.json; classifiers of texts are read from a folder, one of "
            "images goes by package.module:callable"
        )
    form = _text_input(tokenizer, described, flags)
    said = f"the classifier {folder.name}"
    return Network("hf_classifier", {"folder": str(folder)}, form, names, said, surveyed=False)


def _text_input(tokenizer: Path, described: Mapping[str, Any], flags: NetworkFlags) -> TextConfig:
    """`described`: the network's config.json, which may know how many positions there are."""
    special = _special_tokens(tokenizer)
    positions = described.get("max_position_embeddings", _MAX_TOKENS)
    return TextConfig(
        max_tokens=flags.max_tokens or min(_MAX_TOKENS, positions),
        tokenizer=FileTokenizer(
            kind="file",
            path=str(tokenizer),
            pad_token=special.get("pad_token", "[PAD]"),
            unknown_token=special.get("unk_token", "[UNK]"),
        ),
    )


def _labels(described: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names of config.json; () where it has only numbered ones."""
    given: Mapping[str, str] = described.get("id2label") or {}
    names = tuple(given[key] for key in sorted(given, key=int))
    numbered = all(name == f"LABEL_{position}" for position, name in enumerate(names))
    return () if numbered else names


def _json(file: Path) -> dict[str, Any]:
    """A file that holds one object; {} where there is none."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ValueError(f"{file}: is no JSON ({exc})") from exc
    if not isinstance(values, dict):
        raise ValueError(f"{file}: is no JSON object")
    return values


def _special_tokens(tokenizer: Path) -> dict[str, str]:
    """By the files beside a tokenizer, or what the tokenizer itself says of them."""
    own = _json(tokenizer)
    padding, model = own.get("padding") or {}, own.get("model") or {}
    told = {"pad_token": padding.get("pad_token"), "unk_token": model.get("unk_token")}
    beside = ("tokenizer_config.json", "special_tokens_map.json")
    found: dict[str, str] = {}
    for values in (*(_json(tokenizer.with_name(file)) for file in beside), told):
        for name in ("pad_token", "unk_token"):
            value = values.get(name)
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                found.setdefault(name, content)
    return found


def _image_input(flags: ImageFlags, known: Mapping[str, Any], said: str) -> ImageInput:
    """The flags before what the network's own recipe says."""
    given = {name: value for name, value in vars(flags).items() if value is not None}
    values = {**known, **given}
    if missing := [f"--{name}" for name in ("size", "mean", "std") if name not in values]:
        raise ValueError(
            f"{said} does not say what its images are; give {', '.join(missing)}, as in "
            "--size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 (of pixels scaled to 0..1)"
        )
    height, width = values["size"]
    channels = len(values["mean"])
    if channels not in (1, 3):
        raise ValueError(f"--mean has {channels} values; one for grey, three for colour images")
    if len(values["std"]) != channels or min(values["std"]) <= 0:
        raise ValueError(
            f"--std is {list(values['std'])}; {channels} positive values are expected, as many as "
            "--mean has"
        )
    if min(height, width) < 1:
        raise ValueError(f"--size is {height} x {width}; give positive numbers of pixels")
    return ImageInput(
        height=height,
        width=width,
        channels=channels,
        mean=values["mean"],
        std=values["std"],
        resize=values.get("resize", "stretch"),
        interpolation=values.get("interpolation", "bilinear"),
    )
