"""Points of the latent plane, for a picture."""

from typing import Any

import numpy as np

from training.data import InputSet
from training.evaluation.latent_plot import principal_plane
from training.measures.measured import Measured

_POINTS = 400  # a set


def plane(measured: Measured) -> dict[str, Any]:
    """Penultimate features of test-ID and of every test-OOD set: themselves where there are two,
    otherwise on the first two principal components of test-ID's."""
    features, labels = measured.features(measured.roles.test_id)
    centre, axes = np.zeros(features.shape[1]), np.eye(features.shape[1], 2)
    if features.shape[1] != 2:
        centre, axes, _ = principal_plane(features)

    def points(data: InputSet) -> list[list[float]]:
        found = (measured.features(data)[0] - centre) @ axes
        return found[:: -(-len(found) // _POINTS)].round(3).tolist()

    step = -(-len(labels) // _POINTS)
    return {
        "id": points(measured.roles.test_id),
        "labels": labels[::step].tolist(),
        "ood": {name: points(data) for name, data in measured.roles.test_ood.items()},
    }
