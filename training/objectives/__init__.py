"""Training losses by name.  A new objective is one file and one line here."""

from collections.abc import Callable

from training.objectives.binary_head import BinaryHead
from training.objectives.cross_entropy import CrossEntropy
from training.objectives.energy_bounded import EnergyBounded
from training.objectives.logit_norm import LogitNorm
from training.objectives.objectosphere import Objectosphere
from training.objectives.outlier_exposure import OutlierExposure
from training.objectives.parzen_repulsion import ParzenRepulsion
from training.objectives.protocol import Batch, Objective, weighted
from training.objectives.vmdls import Vmdls

OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "binary_head": BinaryHead,
    "cross_entropy": CrossEntropy,
    "energy_bounded": EnergyBounded,
    "logit_norm": LogitNorm,
    "objectosphere": Objectosphere,
    "outlier_exposure": OutlierExposure,
    "parzen_repulsion": ParzenRepulsion,
    "vmdls": Vmdls,
}

__all__ = ["OBJECTIVES", "Batch", "Objective", "weighted"]
