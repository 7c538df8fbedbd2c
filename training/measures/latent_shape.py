"""How an objective bends the space of penultimate features, in numbers.

Sources: effective rank, Roy & Vetterli 2007 (EUSIPCO); centred kernel alignment, Kornblith et al.
2019, arXiv:1905.00414.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.measures.measured import Measured, chosen

_NEIGHBOURS = 5
_NUDGED = 500  # inputs
_NUDGE = 4  # of 255, the largest change of a pixel
_QUANTILES = (0.05, 0.5, 0.95)
_SMALLEST = 1e-12

Features = NDArray[np.float64]


def latent_shape(measured: Measured) -> dict[str, Any]:
    """Of the penultimate features z of test-ID:

    effective_rank    exp of the entropy of the covariance's eigenvalues, as shares of their sum
    class_cosine      mean cosine between class means about the mean of all; -1 / (K - 1) where the
                      classes collapse to a simplex
    within_share      trace of the covariance within classes / trace of all
    alignment         linear CKA with the first arm's features of the same inputs; 1: the same space
                      up to rotation and scale
    stretch           quantiles of ||dz|| / ||dx||, x in 0..1, for random changes of at most 4 / 255
                      a pixel, divided by the root of z's total variance; 5, 50, 95 %
    and of every test-OOD set:
    spread            trace of its covariance / trace of test-ID's: small for a cluster of outliers
    linear, neighbours  accuracy of a logistic regression and of five nearest neighbours on its own
                      labels, fitted on every second input; absent without labels
    """
    roles = measured.roles
    z, labels = measured.features(roles.test_id)
    if measured.first:
        measured.reference.parent.mkdir(parents=True, exist_ok=True)
        np.save(measured.reference, z)
    if not measured.reference.exists():
        raise FileNotFoundError(
            f"{measured.reference} is missing: the study's first arm writes it; measure that again"
        )
    covariance = np.cov(z.T)
    total = float(np.trace(covariance))
    found: dict[str, Any] = {
        "effective_rank": effective_rank(covariance),
        "class_cosine": class_cosine(z, labels),
        "within_share": within_share(z, labels),
        "alignment": linear_cka(z, np.load(measured.reference)),
        "stretch": _stretch(measured, total),
        "ood": {},
    }
    for name, data in roles.test_ood.items():
        own, own_labels = measured.features(data)
        entry = found["ood"][name] = {"spread": float(np.trace(np.cov(own.T))) / total}
        if len(np.unique(own_labels)) > 1:
            entry |= _probed(own, own_labels)
    return found


def effective_rank(covariance: Features) -> float:
    """(D, D) -> between 1 and D."""
    values = np.linalg.eigvalsh(covariance).clip(min=0)
    shares = values / max(values.sum(), _SMALLEST)
    kept = shares[shares > _SMALLEST]
    return float(np.exp(-(kept * np.log(kept)).sum()))


def class_cosine(z: Features, labels: NDArray[np.int64]) -> float:
    means = _class_means(z, labels) - z.mean(0)
    units = means / np.linalg.norm(means, axis=1, keepdims=True).clip(min=_SMALLEST)
    cosines = units @ units.T
    return float(cosines[~np.eye(len(units), dtype=bool)].mean())


def within_share(z: Features, labels: NDArray[np.int64]) -> float:
    _, position = np.unique(labels, return_inverse=True)
    gaps = z - _class_means(z, labels)[position]
    return float((gaps**2).sum() / max(((z - z.mean(0)) ** 2).sum(), _SMALLEST))


def linear_cka(one: Features, other: Features) -> float:
    """Two spaces of the same inputs (n, D), (n, E) -> 0..1."""
    one, other = one - one.mean(0), other - other.mean(0)
    shared = np.linalg.norm(one.T @ other) ** 2
    return float(shared / (np.linalg.norm(one.T @ one) * np.linalg.norm(other.T @ other)))


def _class_means(z: Features, labels: NDArray[np.int64]) -> Features:
    return np.stack([z[labels == label].mean(0) for label in np.unique(labels)])


@torch.no_grad()
def _stretch(measured: Measured, total: float) -> list[float]:
    data = measured.roles.test_id
    pixels = data.batch(chosen(len(data), _NUDGED)).astype(np.int64)
    rng = np.random.default_rng(0)
    nudged = (pixels + rng.integers(-_NUDGE, _NUDGE + 1, pixels.shape)).clip(0, 255)
    moved = np.linalg.norm((nudged - pixels).reshape(len(pixels), -1) / 255, axis=1)
    device = measured.classifier.device
    before, after = (
        measured.classifier(torch.from_numpy(part.astype(np.uint8)).to(device)).features
        for part in (pixels, nudged)
    )
    change = (after - before).double().norm(dim=1).cpu().numpy()
    ratios = change / moved.clip(min=_SMALLEST) / np.sqrt(max(total, _SMALLEST))
    return [float(np.quantile(ratios, share)) for share in _QUANTILES]


def _probed(z: Features, labels: NDArray[np.int64]) -> dict[str, float]:
    fitted, judged = slice(0, None, 2), slice(1, None, 2)
    probes = {
        "linear": LogisticRegression(max_iter=300),
        "neighbours": KNeighborsClassifier(_NEIGHBOURS),
    }
    return {
        name: float(
            make_pipeline(StandardScaler(), probe)
            .fit(z[fitted], labels[fitted])
            .score(z[judged], labels[judged])
        )
        for name, probe in probes.items()
    }
