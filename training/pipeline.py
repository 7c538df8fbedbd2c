"""One run on one screen: data, train, fit, export, calibrate, report, publish."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import BundleRef
from training.backbones import BACKBONES
from training.classifier import Classifier
from training.config import RunConfig
from training.data import SOURCES, ImageSet, Roles, load_roles
from training.detectors import DETECTORS
from training.evaluation.report import write_report
from training.evaluation.tables import Scores
from training.export import BundleParts, next_version, publish_bundle, write_graph
from training.fitting import Network, SetScores, fit_detectors, fit_ensembles, score_set
from training.objectives import OBJECTIVES
from training.optimise import Run, Trained, train
from training.progress import say
from training.reporting import build_report, collect_latents, gather_scores
from training.scorer import Scorer

_GOLDEN_NOISE = 4


@dataclass(frozen=True)
class Scored:
    """Every reported set of a run, scored by one network; accuracy on test-ID, 0..1."""

    calibration: SetScores
    scores: Scores
    accuracy: float


def run(config: RunConfig, repository: Path, runs: Path) -> BundleRef:
    """Train, fit, export, calibrate, report and publish one bundle.  Resumable."""
    started = time.monotonic()
    check_names(config)
    roles = load_roles(config.data, config.input, config.seed)
    scorer, trained = train_and_fit(config, roles, runs)
    fitting = time.monotonic()
    temporary = repository / f".tmp-{config.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        network = write_graph(scorer, config, golden_inputs(config, roles.test_id), temporary)
        scored = score_roles(network, roles, config.id_acceptance)
        bundle = f"{config.name}/{next_version(repository, config.name)}"
        report = build_report(config, scorer, roles, scored.scores, scored.accuracy, bundle=bundle)
        write_report(temporary, report, scored.scores, collect_latents(scorer, roles))
        # the epochs of earlier, interrupted calls count; what this call spent on them does too
        duration = trained.seconds + (time.monotonic() - fitting)
        parts = BundleParts(config, roles.train_id.class_names, roles.fingerprints(), duration)
        published = publish_bundle(temporary, repository, scorer, scored.calibration, parts)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"test accuracy {100 * scored.accuracy:.2f} %; {time.monotonic() - started:.0f} s")
    return published


def check_names(config: RunConfig) -> None:
    """Every name of the registries exists; ValueError names the wrong one and the choice."""
    wanted = [
        (config.backbone, BACKBONES, "backbone"),
        (config.objective, OBJECTIVES, "objective"),
        *((detector.name, DETECTORS, "detector") for detector in config.detectors),
    ]
    for name, registry, kind in wanted:
        if name not in registry:
            raise ValueError(f"no {kind} {name!r}; choose of {sorted(registry)}")


def train_and_fit(config: RunConfig, roles: Roles, runs: Path) -> tuple[Scorer, Trained]:
    """Backbone on train-ID (continuing its checkpoint), detectors on train-ID, ensembles on
    dev-ID."""
    torch.manual_seed(config.seed)
    backbone = BACKBONES[config.backbone](config.input.channels, len(roles.train_id.class_names))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = Classifier(backbone, config.input).to(device)
    checkpoint = runs / f"{config.name}-seed{config.seed}" / "checkpoint.pt"
    identity = Run(config.backbone, config.objective, config.optimiser, config.seed)
    objective = OBJECTIVES[config.objective]
    trained = train(classifier, roles.train_id, objective, identity, checkpoint)
    detectors = [DETECTORS[entry.name](**entry.options) for entry in config.detectors]
    fit_detectors(classifier, detectors, roles.train_id)
    scorer = fit_ensembles(classifier, detectors, config.combiners, roles.dev_id, roles.proxies)
    return scorer.cpu(), trained


def score_roles(network: Network, roles: Roles, id_acceptance: float) -> Scored:
    """cal-ID, test-ID, every test-OOD set and the controls through one network."""
    calibration = score_set(network, roles.cal_id)
    test_id = score_set(network, roles.test_id)
    reported = roles.test_ood | roles.controls
    ood = {name: score_set(network, images) for name, images in reported.items()}
    accuracy = float((test_id.logits.argmax(1) == roles.test_id.labels).mean())
    return Scored(calibration, gather_scores(calibration, test_id, ood, id_acceptance), accuracy)


def golden_inputs(config: RunConfig, test_id: ImageSet) -> NDArray[np.uint8]:
    """Images a bundle may carry: noise, and ID images where the config allows them."""
    noise = SOURCES["noise"]("golden", config.input, kind="uniform", count=_GOLDEN_NOISE, seed=3)
    return np.concatenate([test_id.images[: config.golden_id_count], noise.images])
