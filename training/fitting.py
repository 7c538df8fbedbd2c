"""Fit every detector in one streaming pass, then the ensembles on held-out ID scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.classifier import Classifier
from training.combiners import Ensemble, learn_weights
from training.config import CombinerConfig
from training.data import ImageSet
from training.detectors import Detector
from training.progress import track
from training.scorer import LOGITS, SCORE_PREFIX, Scorer

BATCH = 256

Network = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class SetScores:
    """logits (N, K); scores: detector name -> (N,), higher = more OOD."""

    logits: NDArray[np.float32]
    scores: dict[str, NDArray[np.float32]]


@torch.no_grad()
def fit_detectors(classifier: Classifier, detectors: Sequence[Detector], train: ImageSet) -> None:
    """One pass over un-augmented train-ID in evaluation mode; memory independent of its size."""
    classifier.eval()
    for detector in detectors:
        detector.prepare(classifier)
    device = classifier.device
    starts = range(0, len(train), BATCH)
    for start in track(starts, "fitting detectors"):
        pixels = torch.from_numpy(train.images[start : start + BATCH]).to(device)
        labels = torch.from_numpy(train.labels[start : start + BATCH]).to(device)
        outputs = classifier(pixels)
        for detector in detectors:
            detector.observe(outputs, labels)
    for detector in detectors:
        detector.finish()


def fit_ensembles(
    classifier: Classifier,
    detectors: Sequence[Detector],
    configs: Sequence[CombinerConfig],
    dev_id: ImageSet,
    proxies: dict[str, ImageSet],
) -> Scorer:
    """Standardise on dev-ID; learnt weights also see the proxy outliers, nothing else does."""
    scorer = Scorer(classifier, detectors).eval()
    id_scores = score_set(torch_network(scorer), dev_id).scores
    learnt = any(config.weights == "learnt" for config in configs)
    proxy_scores = (
        {name: score_set(torch_network(scorer), proxy).scores for name, proxy in proxies.items()}
        if learnt
        else {}
    )
    ensembles: list[Ensemble] = []
    for config in configs:
        ensemble = Ensemble(config.name, config.members, config.rule, config.standardisation)
        unknown = set(config.members) - set(id_scores)
        if unknown:
            raise ValueError(
                f"{config.name}: no score named {sorted(unknown)}; there are {sorted(id_scores)}"
            )
        ensemble.fit(id_scores)
        if config.weights == "learnt":
            if not proxies:
                raise ValueError(f"{config.name}: learnt weights need data.proxy_ood")
            learn_weights(ensemble, id_scores, proxy_scores)
        ensembles.append(ensemble.eval())
        id_scores[config.name] = _apply(ensemble, id_scores)
        for scores in proxy_scores.values():
            scores[config.name] = _apply(ensemble, scores)
    return Scorer(classifier, detectors, ensembles).eval()


def torch_network(scorer: Scorer) -> Network:
    """The scorer as a function of arrays, without gradients."""
    device = scorer.classifier.device

    @torch.no_grad()
    def network(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        outputs = scorer(torch.from_numpy(pixels).to(device))
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    return network


def score_set(network: Network, images: ImageSet) -> SetScores:
    """Score a whole set, in batches."""
    parts = [
        network(images.images[start : start + BATCH])
        for start in track(range(0, len(images), BATCH), f"scoring {images.name}")
    ]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    logits = values.pop(LOGITS)
    return SetScores(logits, {n.removeprefix(SCORE_PREFIX): v for n, v in values.items()})


def _apply(ensemble: Ensemble, scores: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    tensors = {member: torch.from_numpy(scores[member]) for member in ensemble.members}
    return ensemble(tensors).numpy()
