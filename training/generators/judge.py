"""How many generated inputs could still be of the generator's own ID, with no OOD data.

A judge is a score, higher = less like ID, and the threshold that keeps 95 % of what the generator
makes at spread 1, as it was trained: its own idea of ID, so that how good the generator is does
not enter.  Outliers that pass for ID teach a classifier to doubt ID; outliers that are noise teach
nothing about its border.  So the choice is the smallest spread at which next to none pass.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.bundle import threshold_at

_BANK = 4000
_COMPONENTS = 20
_ACCEPTANCE = 0.95

Judge = Callable[[Tensor], NDArray[np.float64]]


def nearest_image_judge(train: NDArray[np.uint8]) -> Judge:
    """Images uint8 (N, H, W, C) -> distance to the nearest of at most 4,000 training images, in
    their first 20 principal components."""
    step = max(1, len(train) // _BANK)
    bank = torch.from_numpy(train[::step][:_BANK]).flatten(1).float() / 255
    mean = bank.mean(0)
    _, values, vectors = torch.linalg.svd(bank - mean, full_matrices=False)
    kept = min(_COMPONENTS, int((values > 1e-6 * values[0]).sum()))
    basis = vectors[:kept].T
    inside = (bank - mean) @ basis

    def judge(images: Tensor) -> NDArray[np.float64]:
        own = (images.flatten(1).float() / 255 - mean) @ basis
        nearest = [torch.cdist(rows, inside).amin(1) for rows in own.split(500)]
        return torch.cat(nearest).double().numpy()

    return judge


def share_accepted(judge: Judge, reference: Tensor, generated: Tensor) -> float:
    """The share of generated inputs within what keeps 95 % of the reference."""
    threshold = threshold_at(np.sort(judge(reference)), _ACCEPTANCE)
    return float((judge(generated) <= threshold).mean())


def choose_spread(accepted: dict[float, float], target: float) -> float:
    """The smallest spread of which, and of every larger one, at most `target` is accepted; the
    largest where none is."""
    chosen = max(accepted)
    for spread in sorted(accepted, reverse=True):
        if accepted[spread] > target:
            break
        chosen = spread
    return chosen
