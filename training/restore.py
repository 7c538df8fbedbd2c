"""A published bundle -> the torch scorer it was exported from, for further training.

Reads checkpoint.safetensors and fit.safetensors; never a pickle.
"""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from service.bundle import Manifest, read_manifest, verify_files
from training.backbones import BACKBONES
from training.classifier import Classifier
from training.combiners import Ensemble
from training.config import RunConfig
from training.detectors import DETECTORS
from training.export.bundle import CHECKPOINT, FIT
from training.scorer import Scorer


def load_scorer(folder: Path) -> Scorer:
    """Raises BundleError when a file is damaged, ValueError when its config is not ours."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    config = RunConfig.model_validate(manifest.provenance.config)
    classifier = _load_classifier(folder, config, manifest)
    detectors = [DETECTORS[entry.name](**entry.options) for entry in config.detectors]
    ensembles = [
        Ensemble(entry.name, entry.members, entry.rule, entry.standardisation)
        for entry in config.combiners
    ]
    for entry, ensemble in zip(config.combiners, ensembles, strict=True):
        ensemble.proxies = config.data.proxy_ood if entry.weights == "learnt" else ()
    state = load_file(folder / FIT)
    for index, detector in enumerate(detectors):
        prefix = f"detectors.{index}."
        detector.restore(
            {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        )
    scorer = Scorer(classifier, detectors, ensembles)
    ensembles_state = {n: value for n, value in state.items() if n.startswith("ensembles.")}
    missing, unexpected = scorer.load_state_dict(ensembles_state, strict=False)
    lost = [name for name in missing if name.startswith("ensembles.")]
    if lost or unexpected:
        raise ValueError(f"{folder / FIT}: lacks {lost}, has unknown {unexpected}")
    return scorer.eval()


def _load_classifier(folder: Path, config: RunConfig, manifest: Manifest) -> Classifier:
    backbone = BACKBONES[config.backbone](config.input.channels, len(manifest.class_names))
    assert isinstance(backbone, nn.Module)  # noqa: S101
    backbone.load_state_dict(load_file(folder / CHECKPOINT))
    return Classifier(backbone, config.input)
