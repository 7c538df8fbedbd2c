"""False alarms class by class, at one threshold and at one threshold a predicted class."""

import numpy as np
from numpy.typing import NDArray

from service.bundle import class_references


def class_thresholds(
    scores: NDArray[np.floating], predictions: NDArray[np.int64], classes: int, acceptance: float
) -> NDArray[np.float64]:
    """Calibration scores (n,) and predicted classes (n,) -> a threshold a class (classes,)."""
    order = np.argsort(scores, kind="stable")
    references = class_references(scores[order], predictions[order], classes, acceptance)
    return np.array([reference.threshold for reference in references])


def false_alarms(
    scores: NDArray[np.floating],
    predictions: NDArray[np.int64],
    labels: NDArray[np.int64],
    thresholds: NDArray[np.float64],
) -> list[float]:
    """Test-ID -> share of each true class that is called OOD; NaN-free: 0 without inputs."""
    flagged = scores > thresholds[predictions]
    return [
        float(flagged[labels == c].mean()) if (labels == c).any() else 0.0
        for c in range(len(thresholds))
    ]
