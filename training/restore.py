"""A published bundle -> the torch scorer it was exported from, for further training.

Reads checkpoint.safetensors and fit.safetensors; never a pickle.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from service.bundle import FORWARD, Manifest, read_manifest, verify_files
from training.backbones.hf_encoder import described_encoder
from training.backbones.weight_only_int8 import quantise_weights
from training.classifier import Classifier
from training.combiners import Ensemble
from training.config import CombinerConfig, RunConfig
from training.detectors import DETECTORS
from training.export.bundle import CHECKPOINT, FIT
from training.graph_detectors import GRAPH_DETECTORS
from training.networks import build_classifier
from training.scorer import Scorer
from training.side_scorer import Scorers, SideScorer


def load_scorers(folder: Path) -> Scorers:
    """Raises BundleError when a file is damaged, ValueError when its config is not ours."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    config = RunConfig.model_validate(manifest.provenance.config)
    classifier = _load_classifier(folder, config, manifest)
    state = load_file(folder / FIT)
    detectors = [DETECTORS[d.name](**d.options) for d in config.detectors if d.name in DETECTORS]
    for index, detector in enumerate(detectors):
        detector.restore(_below(state, f"detectors.{index}."))
    sides: list[SideScorer] = []
    for entry in config.detectors:
        if entry.name in GRAPH_DETECTORS:
            side_detector = GRAPH_DETECTORS[entry.name](**entry.options)
            side_detector.restore(_below(state, f"{side_detector.name}.detector."))
            sides.append(SideScorer(classifier, side_detector))
    graphs = {spec.name: spec.graph for spec in manifest.detectors}

    def ensembles(graph: str, prefix: str) -> list[Ensemble]:
        return [
            _load_ensemble(entry, config, _below(state, f"{prefix}ensembles.{index}."))
            for index, entry in enumerate(e for e in config.combiners if graphs[e.name] == graph)
        ]

    return Scorers(
        Scorer(classifier, detectors, ensembles(FORWARD, "")).eval(),
        tuple(
            SideScorer(
                classifier,
                side.detector,
                ensembles(side.detector.graph, f"{side.detector.name}."),
            ).eval()
            for side in sides
        ),
    )


def load_scorer(folder: Path) -> Scorer:
    """The forward graph's part alone; errors as those of `load_scorers`."""
    return load_scorers(folder).forward


def _load_ensemble(entry: CombinerConfig, config: RunConfig, state: dict[str, Tensor]) -> Ensemble:
    ensemble = Ensemble(entry.name, entry.members, entry.rule, entry.standardisation or "mad")
    ensemble.proxies = config.data.proxy_ood if entry.weights == "learnt" else ()
    ensemble.load_state_dict(state)
    return ensemble


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}


def _load_classifier(folder: Path, config: RunConfig, manifest: Manifest) -> Classifier:
    # the bundle's own weights follow; a file they started from may not be on this machine
    options: dict[str, Any] = {
        name: value
        for name, value in config.backbone_options.items()
        if name not in ("weights", "fresh_head", "folder")
    }
    state = load_file(folder / CHECKPOINT)
    if "folder" in config.backbone_options:
        options["encoder"] = described_encoder(state)
    classifier = build_classifier(
        manifest.input, config.backbone, options, len(manifest.class_names)
    )
    if config.weights_int8:
        quantise_weights(classifier.backbone, keep=classifier.head)
    classifier.backbone.load_state_dict(state)
    return classifier
