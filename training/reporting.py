"""One run's scores -> the report of training.evaluation."""

import os
import platform
from collections.abc import Mapping

import numpy as np
import torch

from service.bundle import threshold_at
from training.config import RunConfig
from training.data import ImageSet, Roles
from training.evaluation.records import OodSet, Published, Report
from training.evaluation.tables import (
    Latents,
    Scores,
    calibration_records,
    detector_records,
    table_rows,
)
from training.export import library_versions
from training.fitting import SetScores
from training.scorer import Scorer

_LATENT_SAMPLES = 2000

PublishedTable = Mapping[tuple[str, str], tuple[Published, ...]]


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
    scorer: Scorer,
    roles: Roles,
    scores: Scores,
    accuracy: float,
    *,
    bundle: str,
    published: PublishedTable | None = None,
) -> Report:
    """Everything the page and report.json say about one network."""
    described = scorer.describe()
    remarks = [f"{name}: not evaluated, {reason}" for name, reason in roles.missing.items()]
    duplicates = roles.duplicates()
    if duplicates:
        remarks.append(f"{duplicates} test-ID images also occur, pixel for pixel, in train-ID.")
    if any(name.startswith("fssd") for name in described):
        remarks.append(
            "fssd_* and fssd_ensemble are scored as published, near the noise centre = OOD. In "
            "early layers OOD often lies farther from it than ID, so an AUROC below 0.5 there is "
            "no slip: published results repair it by layer weights whose signs are learnt from "
            "OOD samples. fssd_density needs none."
        )
        if any(
            source.origin.startswith(("uniform noise", "gaussian noise"))
            for source in roles.test_ood.values()
        ):
            remarks.append(
                "The noise centre of every fssd score is made of uniform noise, so its rows on the "
                "noise sets show a detector that has met their kind."
            )
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
        rows=table_rows(scores, published),
        calibration=calibration_records(scores),
        remarks=tuple(remarks),
        primary=config.primary,
    )


@torch.no_grad()
def collect_latents(scorer: Scorer, roles: Roles) -> Latents:
    """Penultimate features of at most 2,000 images a set, for the 2-D picture."""

    def features(images: ImageSet) -> np.ndarray:
        pixels = torch.from_numpy(images.images[:_LATENT_SAMPLES])
        device = scorer.classifier.device
        parts = [scorer.classifier(part.to(device)).features.cpu() for part in pixels.split(250)]
        return torch.cat(parts).flatten(1).numpy()

    return Latents(
        features(roles.train_id),
        roles.train_id.labels[:_LATENT_SAMPLES],
        roles.train_id.class_names,
        {name: features(images) for name, images in roles.test_ood.items()},
    )


def machine() -> dict[str, str]:
    """What the figures were made on."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model n")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown"
