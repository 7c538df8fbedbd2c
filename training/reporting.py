"""One run's scores -> the report of training.evaluation."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from service.bundle import VariantSpec, threshold_at
from training.batches import batch_rows
from training.config import RunConfig
from training.data import InputSet, Roles
from training.evaluation.records import OodSet, Report
from training.evaluation.tables import (
    Latents,
    Scores,
    calibration_records,
    detector_records,
    table_rows,
)
from training.export import library_versions
from training.fitting import SetScores
from training.published import PUBLISHED
from training.side_scorer import Scorers

_LATENT_SAMPLES = 2000
# A class this many times as large as another makes the difference felt.
_IMBALANCE = 2.0


def gather_scores(
    calibration: SetScores, test_id: SetScores, ood: Mapping[str, SetScores], id_acceptance: float
) -> Scores:
    """Thresholds from the calibration scores, and every set's scores beside them."""
    thresholds = {
        name: threshold_at(np.sort(scores), id_acceptance)
        for name, scores in calibration.scores.items()
    }
    ood_scores = {name: scored.scores for name, scored in ood.items()}
    return Scores(calibration.scores, test_id.scores, ood_scores, thresholds)


def build_report(
    config: RunConfig,
    scorers: Scorers,
    roles: Roles,
    scores: Scores,
    accuracy: float,
    *,
    bundle: str,
    variants: Sequence[VariantSpec] = (),
) -> Report:
    """Everything the page and report.json say about one network."""
    described = scorers.describe()
    remarks = [f"{name}: not evaluated, {reason}" for name, reason in roles.missing.items()]
    remarks.extend(roles.remarks)
    remarks.extend(imbalance_remarks(roles.class_counts()))
    remarks.extend(
        f"{count} {role} {roles.test_id.kind} also occur, value for value, in train-ID."
        for role, count in roles.duplicates().items()
        if count
    )
    if roles.outliers is not None:
        remarks.append(outlier_remark(config, roles.outliers))
    remarks.extend(scorers.remarks())
    limit = config.several_passes_limit
    if limit is not None and scorers.sides:
        names = ", ".join(name for side in scorers.sides for name in side.describe())
        remarks.append(
            f"Detectors of several passes are calibrated and measured on at most {limit} "
            f"{roles.test_id.kind} of each set, taken evenly: {names}."
        )
    if any(name.startswith("fssd") for name in described):
        remarks.append(
            "fssd_* and fssd_ensemble are scored as published, near the noise centre = OOD. In "
            "early layers OOD often lies farther from it than ID, so an AUROC below 0.5 there is "
            "no slip: published results repair it by layer weights whose signs are learnt from "
            "OOD samples. fssd_density needs none."
        )
        if any(
            "uniform noise" in source.origin or source.origin.startswith("gaussian noise")
            for source in roles.test_ood.values()
        ):
            remarks.append(
                "The noise centre of every fssd score is made of uniform noise, so its rows on the "
                "noise sets show a detector that has met their kind."
            )
    remarks.extend(variant_remark(variant) for variant in variants)
    return Report(
        title=f"{config.name}: out-of-distribution detection",
        bundle=bundle,
        test_accuracy=accuracy,
        counts=roles.counts(),
        seeds=(config.seed,),
        config=config.model_dump(mode="json"),
        libraries=library_versions(),
        machine=machine(),
        detectors=detector_records(
            scores,
            {name: d.summary for name, d in described.items()},
            config.id_acceptance,
            {name: d.reference for name, d in described.items()},
            {name: d.cost for name, d in described.items()},
        ),
        ood_sets=(
            *(OodSet(name, s.origin) for name, s in roles.test_ood.items()),
            *(OodSet(name, s.origin, "control") for name, s in roles.controls.items()),
        ),
        rows=table_rows(scores, PUBLISHED.get(config.name)),
        calibration=calibration_records(scores),
        remarks=tuple(remarks),
        primary=config.primary,
    )


def imbalance_remarks(counts: Mapping[str, int]) -> list[str]:
    """What is to be said of classes of very different sizes; `counts`: class -> train-ID inputs."""
    most, least = max(counts, key=lambda name: counts[name]), min(counts, key=lambda n: counts[n])
    if counts[most] < _IMBALANCE * counts[least]:
        return []
    return [
        f"Classes are of different sizes: train-ID has {counts[most]:,} inputs of {most!r}, "
        f"{counts[least]:,} of {least!r}. Rare classes look stranger than frequent ones to most "
        "scores, and the promised acceptance is that of all ID inputs together, not of each class."
    ]


def outlier_remark(config: RunConfig, outliers: InputSet) -> str:
    """What the network was trained on beside ID, in one paragraph."""
    entry = config.objective
    return (
        f"The network was trained with the objective {entry.name} on {len(outliers)} outliers, "
        f"{entry.outlier_share:.0%} of every step: {outliers.origin}. A row on a set of the "
        "same kind shows a network that has met it; none of these inputs is in a reported set."
    )


def variant_remark(variant: VariantSpec) -> str:
    """What a variant of the forward graph costs and gains, in one paragraph."""
    price = variant.price
    areas = [
        (fp32, other, f"{detector} on {name}")
        for name, by_detector in price.auroc.items()
        for detector, (fp32, other) in by_detector.items()
    ]
    parts = [
        f"accuracy {100 * price.accuracy:.2f} % (forward.onnx {100 * price.accuracy_fp32:.2f} %)"
    ]
    if areas:
        mean = sum(other - fp32 for fp32, other, _ in areas) / len(areas)
        fp32, other, where = max(areas, key=lambda area: abs(area[1] - area[0]))
        parts.append(
            f"AUROC {100 * mean:+.2f} points on average, most for {where}, "
            f"from {100 * fp32:.2f} to {100 * other:.2f}"
        )
    speeds = ", ".join(f"{ratio:.2f} at batch {size}" for size, ratio in price.speed_ratio.items())
    return (
        f"The {variant.name} variant, served only where a setting asks for it, has thresholds of "
        f"its own: {'; '.join(parts)}; speed relative to forward.onnx {speeds} "
        f"({price.measured_on}). Every figure is in manifest.json."
    )


@torch.no_grad()
def collect_latents(scorers: Scorers, roles: Roles) -> Latents:
    """Penultimate features of at most 2,000 inputs a set, for the 2-D picture."""

    def features(data: InputSet) -> np.ndarray:
        device = scorers.classifier.device
        size = batch_rows(data.inputs.shape[1:])
        count = min(len(data), _LATENT_SAMPLES)
        parts_of = (slice(start, min(start + size, count)) for start in range(0, count, size))
        parts = [
            scorers.classifier(torch.from_numpy(data.batch(part)).to(device)).features.cpu()
            for part in parts_of
        ]
        return torch.cat(parts).flatten(1).numpy()

    return Latents(
        features(roles.train_id),
        roles.train_id.labels[:_LATENT_SAMPLES],
        roles.train_id.class_names,
        {name: features(data) for name, data in roles.test_ood.items()},
    )


def machine() -> dict[str, str]:
    """What the figures were made on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "commit": _commit(),
    }


@cache
def _commit() -> str:
    """Of the checkout this code stands in; a change that is not committed shows as -dirty."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return "unknown: no checkout"
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],  # noqa: S607
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown: no git"
    return described.stdout.strip() or "unknown: no commit"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model n")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"
