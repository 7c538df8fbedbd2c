"""Raw scores -> the rows of a report.  Higher score = more OOD."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.calibration import acceptance_interval, calibration_check, uniformity
from training.evaluation.intervals import bootstrap_interval
from training.evaluation.metrics import as_scores, evaluate_scores
from training.evaluation.records import CalibrationRecord, DetectorRecord, Published, Row

ByDetector = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Scores:
    """Every score a report is made of, each array (n,), keyed by detector.

    `ood` holds the control sets too.  Raises ValueError when the parts do not have the same
    detectors, or an array is empty, not 1-d, or has NaN.
    """

    calibration: ByDetector
    id_test: ByDetector
    ood: Mapping[str, ByDetector]  # set name -> detector -> scores
    thresholds: Mapping[str, float]

    def __post_init__(self) -> None:
        expected = set(self.thresholds)
        parts = {"calibration": self.calibration, "test-ID": self.id_test, **self.ood}
        for part, by_detector in parts.items():
            if set(by_detector) != expected:
                odd = sorted(set(by_detector) ^ expected)
                raise ValueError(f"{part}: detectors differ from those with a threshold: {odd}")
            for detector, scores in by_detector.items():
                as_scores(scores, f"{part}, {detector}")

    @property
    def detectors(self) -> list[str]:
        """Names, in the order of `thresholds`."""
        return list(self.thresholds)


@dataclass(frozen=True)
class Latents:
    """Penultimate features for the picture: train-ID (n, D) with labels (n,), OOD (m, D)."""

    id_features: NDArray[np.floating]
    id_labels: NDArray[np.integer]
    class_names: tuple[str, ...]
    ood_features: Mapping[str, NDArray[np.floating]]

    def __post_init__(self) -> None:
        if self.id_features.ndim != 2 or len(self.id_features) < 2:
            raise ValueError(f"ID features {self.id_features.shape}: at least two of (n, D) needed")
        if len(self.id_labels) != len(self.id_features):
            raise ValueError("ID features and labels differ in number")
        for name, features in self.ood_features.items():
            if features.ndim != 2 or features.shape[1] != self.id_features.shape[1]:
                raise ValueError(f"{name}: features {features.shape} do not fit the ID features")


def table_rows(
    scores: Scores, published: Mapping[tuple[str, str], tuple[Published, ...]] | None = None
) -> tuple[Row, ...]:
    """Scores -> one row for each OOD set and detector.

    `published`: (set name, detector) -> numbers of the literature to stand beside ours.
    """
    known = published or {}
    return tuple(
        Row(
            ood_set=ood_set,
            detector=detector,
            metrics=evaluate_scores(
                scores.id_test[detector], by_detector[detector], scores.thresholds[detector]
            ),
            auroc_interval=bootstrap_interval(scores.id_test[detector], by_detector[detector]),
            published=known.get((ood_set, detector), ()),
        )
        for ood_set, by_detector in scores.ood.items()
        for detector in scores.detectors
    )


def calibration_records(scores: Scores) -> tuple[CalibrationRecord, ...]:
    """Scores -> the calibration check of every detector."""
    return tuple(
        CalibrationRecord(
            detector,
            calibration_check(scores.calibration[detector], scores.id_test[detector]),
            uniformity(scores.calibration[detector], scores.id_test[detector]),
        )
        for detector in scores.detectors
    )


def detector_records(
    scores: Scores,
    descriptions: Mapping[str, str],
    id_acceptance: float = 0.95,
    references: Mapping[str, str] | None = None,
    costs: Mapping[str, str] | None = None,
) -> tuple[DetectorRecord, ...]:
    """Scores and one sentence a detector -> the detectors of a report."""
    return tuple(
        DetectorRecord(
            name=detector,
            description=descriptions[detector],
            threshold=float(scores.thresholds[detector]),
            id_acceptance=id_acceptance,
            calibration_size=len(scores.calibration[detector]),
            acceptance_interval=acceptance_interval(
                len(scores.calibration[detector]), id_acceptance
            ),
            reference=(references or {}).get(detector, ""),
            cost=(costs or {}).get(detector, ""),
        )
        for detector in scores.detectors
    )
