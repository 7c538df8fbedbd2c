"""One run on one screen: data, train, fit, export, calibrate, report, publish."""

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from service.bundle import BundleRef, threshold_at
from training.backbones import BACKBONES, Classifier
from training.config import RunConfig
from training.data import ImageSet, Roles, load_roles
from training.detectors import DETECTORS
from training.evaluation.records import Published
from training.evaluation.report import write_report
from training.evaluation.tables import Latents, Scores
from training.export import BundleParts, publish_bundle, write_graph
from training.fitting import (
    Network,
    SetScores,
    fit_detectors,
    fit_ensembles,
    score_set,
    torch_network,
)
from training.objectives import OBJECTIVES
from training.optimise import train
from training.progress import say
from training.reporting import build_report
from training.scorer import Scorer

_LATENT_SAMPLES = 2000
_GOLDEN_NOISE = 4


@dataclass(frozen=True)
class Fitted:
    """A trained and fitted scorer with the data it came from."""

    scorer: Scorer
    roles: Roles


@dataclass(frozen=True)
class Scored:
    """Every set of a run, scored by one network."""

    calibration: SetScores
    test_id: SetScores
    ood: dict[str, SetScores]
    accuracy: float


def run(config: RunConfig, repository: Path, runs: Path) -> BundleRef:
    """Train, fit, export, calibrate, report and publish one bundle.  Resumable."""
    started = time.monotonic()
    fitted = train_and_fit(config, runs)
    roles = fitted.roles
    temporary = repository / f".tmp-{config.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        golden = golden_inputs(config, roles.test_id)
        network = write_graph(fitted.scorer, config, golden, temporary)
        scored = score_roles(network, roles)
        report = build_report(config, fitted.scorer, roles, [scored.accuracy], [config.seed])
        scores = report_scores(scored, config.id_acceptance)
        latents = collect_latents(fitted.scorer, roles)
        write_report(temporary, report.with_scores(scores), scores, latents)
        parts = BundleParts(
            config,
            roles.train_id.class_names,
            roles.fingerprints(),
            config.seed,
            time.monotonic() - started,
        )
        published = publish_bundle(temporary, repository, fitted.scorer, scored.calibration, parts)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"test accuracy {100 * scored.accuracy:.2f} %; published {published.path}")
    return published
