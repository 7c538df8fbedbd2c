"""What a run config cannot mean is refused before anything is read or trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.backbones import BACKBONES, TEXT_BACKBONES
from training.config import RunConfig, load_config
from training.config_checks import check_config
from training.data import DataUnavailable
from training.detectors import DETECTORS
from training.graph_detectors import GRAPH_DETECTORS
from training.pipeline import run

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
LAYERS = ("mahalanobis_conv1", "mahalanobis_conv2", "mahalanobis", "mahalanobis_logits")


class Signed(nn.Module):
    """Features of either sign; no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 8), nn.Tanh())
        self.head = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def config(**changes: Any) -> RunConfig:
    """Two detectors, an ensemble of one's layers and a combination of both, on LeNet; data that
    exist nowhere."""
    nowhere = [{"source": "npz", "path": "/nowhere/train.npz"}]
    values: dict[str, Any] = {
        "name": "digits",
        "description": "checked, never run",
        "backbone": "lenet",
        "input": {"height": 28, "width": 28, "channels": 1, "mean": (0.3,), "std": (0.3,)},
        "optimiser": {"name": "adadelta", "lr": 1.0, "epochs": 14, "batch_size": 64},
        "data": {
            "train": nowhere,
            "test": nowhere,
            "dev_count": 100,
            "cal_count": 300,
            "test_ood": {},
        },
        "detectors": detectors("msp", "mahalanobis"),
        "combiners": [
            {"name": "mahalanobis_ensemble", "members": LAYERS},
            {"name": "combined", "members": ("msp", "mahalanobis_ensemble")},
        ],
    }
    return RunConfig.model_validate(values | changes)


NOISE = {"sources": {"noise": [{"source": "noise", "kind": "uniform"}]}}


def detectors(*names: str, **options: Any) -> list[dict[str, Any]]:
    """`options` are those of the last one."""
    entries: list[dict[str, Any]] = [{"name": name} for name in names]
    entries[-1]["options"] = options
    return entries


def combiner(name: str = "combined", *members: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "members": members or ("msp", "mahalanobis"), **changes}


def module(factory: str = "Signed") -> dict[str, Any]:
    return {
        "backbone": "module",
        "backbone_options": {"factory": f"test_config_checks:{factory}", "taps": []},
        "combiners": [],
        "primary": "msp",
    }


# These need a file, a folder or a name.
OF_FILES = {"graph", "hf_classifier", "hf_encoder", "module", "onnx", "timm", "torchvision"}


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.toml")))
def test_shipped_configs_pass(file: str) -> None:
    try:
        check_config(load_config(CONFIGS / file))
    except DataUnavailable as exc:
        pytest.skip(f"it starts from a pretrained encoder: {exc}")


def test_the_config_of_this_file_passes() -> None:
    check_config(config())
    check_config(config(primary="mahalanobis_conv1"))


def test_a_config_with_every_detector_passes() -> None:
    everything = detectors(*DETECTORS, *GRAPH_DETECTORS)
    check_config(
        config(
            detectors=everything, members=2, backbone="wrn_40_2", backbone_options={"dropout": 0.3},
            combiners=[combiner()], objective="binary_head", outliers=NOISE,
        )
    )  # fmt: skip


@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) - OF_FILES))
def test_every_backbone_is_built_without_data(backbone: str) -> None:
    side = 28 if backbone in ("lenet", "osr_cnn") else 32
    size = {"height": side, "width": side, "channels": 1, "mean": (0.3,), "std": (0.3,)}
    check_config(config(backbone=backbone, input=size, combiners=[combiner()]))


def test_files_of_weights_are_not_read() -> None:
    options = {"model": "resnet18", "weights": "/nowhere/weights.safetensors", "fresh_head": True}
    colour = {"height": 32, "width": 32, "channels": 3, "mean": (0.5,) * 3, "std": (0.3,) * 3}
    check_config(
        config(
            backbone="torchvision", backbone_options=options, input=colour, combiners=[combiner()]
        )
    )


@pytest.mark.parametrize("backbone", sorted(set(TEXT_BACKBONES) - OF_FILES))
def test_every_text_backbone_is_built_without_data(backbone: str) -> None:
    text = {"max_tokens": 8, "tokenizer": {"kind": "word", "min_count": 3}}
    check_config(
        config(modality="text", input=None, text=text, backbone=backbone, combiners=[combiner()])
    )


def test_nothing_is_read_before_the_refusal(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="primary 'enregy'"):
        run(config(primary="enregy"), tmp_path / "models", tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown backbone": ({"backbone": "lennet"}, r"backbone 'lennet'; choose of .*'lenet'"),
    "unknown objective": ({"objective": "hinge"}, r"no objective 'hinge'; choose of"),
    "unknown detector": (
        {"detectors": detectors("msp", "mahalanobis", "enregy")},
        r"no detector 'enregy'; choose of .*'energy'",
    ),
    "option not known": (
        {"detectors": detectors("mahalanobis", "msp", shrinkage=0.1)},
        r"detector msp: options \{'shrinkage': 0.1\}: .*unexpected keyword argument 'shrinkage'",
    ),
    "option out of range": (
        {"detectors": detectors("msp", "mahalanobis", shrinkage=2)},
        r"detector mahalanobis: options .*: mahalanobis: shrinkage is 2.*; choose between 0 and 1",
    ),
    "option of the wrong type": (
        {"detectors": detectors("msp", "mahalanobis", "odin", temperature="hot")},
        r"detector odin: options \{'temperature': 'hot'\}: .*not supported",
    ),
    "a detector's name as an option": (
        {"detectors": detectors("msp", "mahalanobis", "odin", name="mine")},
        r"detector odin: the option name is not free",
    ),
    "backbone option not known": (
        {"backbone_options": {"depth": 3}},
        r"backbone lenet: options \{'depth': 3\}: .*unexpected keyword argument 'depth'",
    ),
    "input too small": (
        {"input": {"height": 32, "width": 32, "channels": 1, "mean": (0.3,), "std": (0.3,)}},
        r"input: lenet cannot take 32 x 32 pixels",
    ),
    "a stage too small": (
        {
            "optimiser": {
                "name": "sgd", "lr": 0.1, "epochs": 14, "batch_size": 64,
                "stages": [{"epoch": 5, "side": 24}],
            }
        },
        r"stage at epoch 5: lenet cannot take 24 x 24 pixels",
    ),
    "primary unknown": ({"primary": "energy"}, r"primary 'energy' is no score .*'combined'.*'msp'"),
    "primary with a graph of its own": (
        {"primary": "odin", "detectors": detectors("msp", "mahalanobis", "odin")},
        r"primary odin stands in perturbed-odin.onnx .*choose of \['combined'",
    ),
    "member unknown": (
        {"combiners": [combiner("combined", "msp", "mahalanobis_conv3")]},
        r"combiner combined: nothing before it gives \['mahalanobis_conv3'\]; there are .*conv2",
    ),
    "member made later": (
        {"combiners": [combiner("combined", "msp", "later"), combiner("later")]},
        r"combiner combined: nothing before it gives \['later'\]",
    ),
    "members of two graphs": (
        {
            "detectors": detectors("msp", "mahalanobis", "odin"),
            "combiners": [combiner("combined", "msp", "odin")],
        },
        r"scores of one graph.*msp in forward.onnx, odin in perturbed-odin.onnx",
    ),
    "a combiner called as a detector": (
        {"combiners": [combiner(), combiner("mahalanobis")]},
        r"score mahalanobis would be given by detector mahalanobis and by combiner mahalanobis",
    ),
    "a combiner called as a layer's score": (
        {"combiners": [combiner(), combiner("mahalanobis_conv1")]},
        r"score mahalanobis_conv1 would be given by detector mahalanobis and by combiner",
    ),
    "learnt weights without proxies": (
        {"combiners": [combiner(weights="learnt")]},
        r"combiner combined: learnt weights need outliers .*data.proxy_ood",
    ),
    "p-values of too few": (
        {
            "combiners": [combiner(rule="fisher")],
            "data": config().data.model_dump() | {"dev_count": 99},
        },
        r"combiner combined: the rule fisher .*dev_count is 99: set it to at least 100",
    ),
    "a bundle that cannot be called so": ({"name": "My Digits"}, r"name 'My Digits' cannot be"),
    "a score that cannot be called so": (
        {"combiners": [combiner(), combiner("x" * 64)]},
        r"score 'x{64}' cannot be published: .*pattern",
    ),
    "statistics of a detector that is absent": (
        {"detectors": detectors("msp", "mahalanobis", "fssd_perturbed")},
        r"detector fssd_perturbed builds on the statistics of fssd; add that",
    ),
    "an ensemble of one": (
        {"detectors": detectors("msp", "mahalanobis", "deep_ensemble")},
        r"deep_ensemble compares networks; members is 1: set it to at least 2",
    ),
    "an acceptance that cal-ID cannot promise": (
        {"id_acceptance": 0.999},
        r"id_acceptance is 0.999; data.cal_count = 300 .* at most 0.9967: .* at least 999",
    ),
    "an acceptance that several passes cannot promise": (
        {
            "id_acceptance": 0.99,
            "several_passes_limit": 50,
            "detectors": detectors("msp", "mahalanobis", "odin"),
        },
        r"several_passes_limit = 50 .* at most 0.9804: .* at least 99",
    ),
    "shaping of features that can be negative": (
        module() | {"detectors": detectors("msp", "ash_s")},
        r"ash_s: a penultimate feature of the untrained network is -.*leave it out",
    ),
    "dropout where there is none": (
        module() | {"detectors": detectors("msp", "mc_dropout")},
        r"mc_dropout: the network has no dropout layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_name_limit_and_advice(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        check_config(config(**changes))


def test_a_limit_that_no_detector_uses_is_no_limit() -> None:
    check_config(config(id_acceptance=0.99, several_passes_limit=50))


@pytest.mark.parametrize(("count", "accepted"), [(98, False), (99, True)])
def test_the_smallest_calibration_set_that_promises_99_percent(count: int, accepted: bool) -> None:
    data = config().data.model_dump() | {"cal_count": count}
    checked = config(id_acceptance=0.99, data=data)
    if accepted:
        check_config(checked)
    else:
        with pytest.raises(ValueError, match=r"set data.cal_count to at least 99"):
            check_config(checked)


def test_the_check_leaves_the_run_its_random_numbers() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_config(config())
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
