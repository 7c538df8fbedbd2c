"""Detectors by the literature's name.  A new detector is one file and one line here."""

from collections.abc import Callable

from training.detectors.energy import Energy
from training.detectors.fssd import Fssd
from training.detectors.mahalanobis import Mahalanobis
from training.detectors.max_logit import MaxLogit
from training.detectors.msp import Msp
from training.detectors.protocol import Detector, FitError, NotFitted

DETECTORS: dict[str, Callable[..., Detector]] = {
    "energy": Energy,
    "fssd": Fssd,
    "mahalanobis": Mahalanobis,
    "max_logit": MaxLogit,
    "msp": Msp,
}

__all__ = ["DETECTORS", "Detector", "FitError", "NotFitted"]
