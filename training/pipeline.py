"""One run on one screen: data, train, fit, export, calibrate, report, publish."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import BundleRef, TextEncoder, TextInput, VariantSpec
from training.backbones.weight_only_int8 import quantise_weights
from training.classifier import Classifier
from training.config import RunConfig
from training.config_checks import check_config
from training.data import SOURCES, InputSet, Roles, TextSet, load_roles
from training.data.golden_texts import GOLDEN_TEXTS
from training.detectors import DETECTORS
from training.evaluation.report import write_report
from training.evaluation.tables import Scores
from training.export import (
    BundleParts,
    GoldenInputs,
    Judged,
    describe_int8,
    measure_speed,
    next_version,
    price_of,
    publish_bundle,
    write_graphs,
    write_int8_graph,
)
from training.fitting import (
    Network,
    SetScores,
    fit_detectors,
    fit_ensembles,
    fit_graph_detectors,
    score_set,
    score_side,
)
from training.graph_detectors import GRAPH_DETECTORS
from training.networks import build_classifier
from training.objectives import OBJECTIVES
from training.optimise import Run, Trained, train
from training.processes import process_group, rank
from training.progress import say
from training.reporting import build_report, collect_latents, gather_scores, machine
from training.scorer import Scorer
from training.side_scorer import Scorers, SideScorer
from training.starting_weights import load_starting_weights

_GOLDEN_NOISE = 4


@dataclass(frozen=True)
class Scored:
    """Every reported set of a run, scored by its networks; accuracy on test-ID, 0..1.

    `predicted`: test_id or the name of another set -> positions of classes (N,).
    """

    calibration: SetScores
    scores: Scores
    accuracy: float
    predicted: dict[str, NDArray[np.int64]]


def run(
    config: RunConfig, repository: Path, runs: Path, roles: Roles | None = None
) -> BundleRef | None:
    """Train, fit, export, calibrate, report and publish one bundle.  Resumable.

    Under torchrun all processes train together and the first one does the rest: None in others.
    `roles`: the config's data, where they have been read already.
    """
    started = time.monotonic()
    check_config(config)
    if roles is None:
        roles = load_roles(config.data, config.form, config.seed, config.outliers)
    with process_group():
        trained_members = train_members(config, roles, runs)
        if rank() > 0:
            return None
    scorers, trained = fit_all(config, roles, trained_members)
    for remark in scorers.remarks():
        say(remark)
    fitting = time.monotonic()
    temporary = repository / f".tmp-{config.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        golden = golden_inputs(config, roles)
        networks = write_graphs(scorers, config, golden, temporary)
        scored = score_roles(networks, roles, config)
        variants = (add_int8(temporary, golden, roles, config, scored),) if config.int8 else ()
        bundle = f"{config.name}/{next_version(repository, config.name)}"
        report = build_report(
            config,
            scorers,
            roles,
            scored.scores,
            scored.accuracy,
            bundle=bundle,
            variants=variants,
        )
        write_report(temporary, report, scored.scores, collect_latents(scorers, roles))
        # the epochs of earlier, interrupted calls count; what this call spent on them does too
        duration = trained.seconds + (time.monotonic() - fitting)
        parts = BundleParts(
            config, roles.train_id.class_names, roles.fingerprints(), duration, roles.tokenizer
        )
        published = publish_bundle(
            temporary, repository, scorers, scored.calibration, parts, variants
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"test accuracy {100 * scored.accuracy:.2f} %; {time.monotonic() - started:.0f} s")
    return published


def train_and_fit(config: RunConfig, roles: Roles, runs: Path) -> tuple[Scorers, Trained]:
    """Backbone on train-ID (continuing its checkpoint), detectors on train-ID and dev-ID,
    ensembles on dev-ID.  The time is that of all members."""
    return fit_all(config, roles, train_members(config, roles, runs))


def train_members(config: RunConfig, roles: Roles, runs: Path) -> list[tuple[Classifier, Trained]]:
    """The run's network first."""
    return [
        train_member(config, roles, runs, config.seed + member) for member in range(config.members)
    ]


def fit_all(
    config: RunConfig, roles: Roles, trained: list[tuple[Classifier, Trained]]
) -> tuple[Scorers, Trained]:
    """Everything after the training; the time is that of all members."""
    classifier, record = trained[0]
    detectors = [DETECTORS[d.name](**d.options) for d in config.detectors if d.name in DETECTORS]
    fit_detectors(classifier, detectors, roles.train_id, roles.dev_id, roles.outliers)
    graph_detectors = [
        GRAPH_DETECTORS[d.name](**d.options) for d in config.detectors if d.name in GRAPH_DETECTORS
    ]
    members = [member for member, _ in trained[1:]]
    train, held_out = roles.train_id, roles.dev_id
    fit_graph_detectors(classifier, graph_detectors, detectors, train, held_out, members)
    device = classifier.device
    sides = [SideScorer(classifier, detector).eval().to(device) for detector in graph_detectors]
    forward = Scorer(classifier, detectors).eval().to(device)
    scorers = fit_ensembles(forward, sides, config.combiners, roles.dev_id, roles.proxies)
    seconds = sum(each.seconds for _, each in trained)
    return scorers.cpu(), Trained(record.losses, seconds)


def train_member(
    config: RunConfig, roles: Roles, runs: Path, seed: int
) -> tuple[Classifier, Trained]:
    """One network; the data's roles are those of the run, whatever the seed."""
    torch.manual_seed(seed)
    train_id = roles.train_id
    typical = int(np.median(train_id.lengths())) if isinstance(train_id, TextSet) else None
    classifier = build_classifier(
        roles.spec,
        config.backbone,
        config.backbone_options,
        len(train_id.class_names),
        typical,
        roles.tokenizer,
    )
    start = None
    if config.start_from is not None:
        start = load_starting_weights(classifier, config.start_from)
    classifier.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    trained = Trained((), 0.0)
    if config.optimiser is not None:
        own = f"{config.name}-seed{config.seed}"
        member = own if seed == config.seed else f"{own}-member{seed}"
        recipe = config.optimiser
        identity = Run(
            config.backbone, config.backbone_options, config.objective, recipe, seed, start
        )
        objective = OBJECTIVES[config.objective.name](**config.objective.options)
        checkpoint = runs / member / "checkpoint.pt"
        trained = train(classifier, train_id, objective, identity, checkpoint, roles.outliers)
    if config.weights_int8:
        quantise_weights(classifier.backbone, keep=classifier.head)
    return classifier, trained


def score_roles(networks: Sequence[Network], roles: Roles, config: RunConfig) -> Scored:
    """cal-ID, test-ID, every test-OOD set and the controls.

    `networks`: the forward graph first; the others cost several passes and see fewer inputs.
    """

    def score(data: InputSet) -> SetScores:
        forward = score_set(networks[0], data)
        for network in networks[1:]:
            forward.scores.update(score_side(network, data, config.several_passes_limit).scores)
        return forward

    calibration, test_id = score(roles.cal_id), score(roles.test_id)
    reported = roles.test_ood | roles.controls
    ood = {name: score(data) for name, data in reported.items()}
    accuracy = float((test_id.logits.argmax(1) == roles.test_id.labels).mean())
    gathered = gather_scores(calibration, test_id, ood, config.id_acceptance)
    sets = {"test_id": test_id} | ood
    predicted = {name: scored.logits.argmax(1) for name, scored in sets.items()}
    return Scored(calibration, gathered, accuracy, predicted)


def add_int8(
    folder: Path, golden: GoldenInputs, roles: Roles, config: RunConfig, fp32: Scored
) -> VariantSpec:
    """Quantise the folder's forward graph, score every set with it too, measure its price."""
    graph = write_int8_graph(folder, roles.dev_id.inputs, golden.inputs)
    int8 = score_roles([graph.network], roles, config)
    price = price_of(
        Judged(fp32.scores, fp32.accuracy),
        Judged(int8.scores, int8.accuracy),
        roles.test_ood,
        measure_speed(folder, roles.dev_id.inputs),
        machine()["processor"],
    )
    return describe_int8(folder, graph, int8.calibration, config.id_acceptance, price)


def golden_inputs(config: RunConfig, roles: Roles) -> GoldenInputs:
    """What a bundle may carry: noise, and ID images where the config allows them; texts of ours."""
    if roles.tokenizer is not None and isinstance(roles.spec, TextInput):
        texts = (*config.golden_texts, *GOLDEN_TEXTS)
        tokens = TextEncoder(roles.tokenizer, roles.spec).encode_all(texts)
        return GoldenInputs(np.array(texts, dtype=np.str_), tokens)
    noise = SOURCES["noise"]("golden", roles.spec, kind="uniform", count=_GOLDEN_NOISE, seed=3)
    pixels = np.concatenate([roles.test_id.inputs[: config.golden_id_count], noise.inputs])
    return GoldenInputs(pixels, pixels)
