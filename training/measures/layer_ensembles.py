"""Which layers the class Gaussians of VMDLS_b need: from all of them down to the latent mean."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import threshold_at
from training.data import InputSet
from training.detectors.vmdls_b import VmdlsB
from training.evaluation.metrics import evaluate_scores
from training.evaluation.open_set import macro_f1
from training.measures.measured import Measured
from training.outputs import Outputs

_ACCEPTANCE = 0.95
_LOGITS = "logits"


def layer_ensembles(measured: Measured) -> dict[str, Any]:
    """Names of the last layers, joined by + -> AUROC, and macro-F1 with the threshold that keeps
    95 % of train and of cal-ID, for every test-OOD set."""
    roles = measured.roles
    sets: dict[str, InputSet] = {
        "train_id": roles.train_id,
        "cal_id": roles.cal_id,
        "test_id": roles.test_id,
        **roles.test_ood,
    }
    names = [name for name in measured.classifier.tap_names if name != _LOGITS]
    detectors = {tuple(names[first:]): VmdlsB() for first in range(len(names))}
    for outputs, labels in measured.outputs(roles.train_id, len(roles.train_id)):
        for layers, detector in detectors.items():
            detector.observe(_only(outputs, layers), labels)
    for detector in detectors.values():
        detector.finish()
    scores: dict[tuple[str, ...], dict[str, NDArray[np.float32]]] = {n: {} for n in detectors}
    answers: dict[str, NDArray[np.int64]] = {}
    for name, data in sets.items():
        parts: dict[tuple[str, ...], list[torch.Tensor]] = {layers: [] for layers in detectors}
        answered = []
        for outputs, _ in measured.outputs(data):
            answered.append(outputs.logits.argmax(1).cpu())
            for layers, detector in detectors.items():
                parts[layers].append(detector(_only(outputs, layers))["vmdls_b"].detach().cpu())
        answers[name] = torch.cat(answered).numpy()
        for layers, found in parts.items():
            scores[layers][name] = torch.cat(found).numpy()
    labels = measured.features(roles.test_id)[1]
    return {
        "+".join(layers): {
            ood: _compared(found, answers, labels, ood, len(roles.train_id.class_names))
            for ood in roles.test_ood
        }
        for layers, found in scores.items()
    }


def _compared(
    scores: dict[str, NDArray[np.float32]],
    answers: dict[str, NDArray[np.int64]],
    labels: NDArray[np.int64],
    ood: str,
    classes: int,
) -> dict[str, float]:
    thresholds = {
        "train": float(np.quantile(scores["train_id"], _ACCEPTANCE)),
        "cal": threshold_at(np.sort(scores["cal_id"]), _ACCEPTANCE),
    }
    of_id, of_ood = scores["test_id"], scores[ood]
    found = {"auroc": evaluate_scores(of_id, of_ood, thresholds["cal"]).auroc}
    for source, threshold in thresholds.items():
        found[f"f1_{source}"] = macro_f1(
            labels,
            answers["test_id"],
            of_id > threshold,
            answers[ood],
            of_ood > threshold,
            classes,
        )
    return found


def _only(outputs: Outputs, layers: tuple[str, ...]) -> Outputs:
    return replace(outputs, taps={name: outputs.taps[name] for name in layers})
