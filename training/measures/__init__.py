"""What a study measures of a network beside the scores of its detectors, by name."""

from collections.abc import Callable
from typing import Any

from training.measures.latent_shape import latent_shape
from training.measures.layer_ensembles import layer_ensembles
from training.measures.measured import Measured
from training.measures.plane import plane

# name -> the measured network to numbers that JSON holds
MEASURES: dict[str, Callable[[Measured], dict[str, Any]]] = {
    "latent_shape": latent_shape,
    "layer_ensembles": layer_ensembles,
    "plane": plane,
}

__all__ = ["MEASURES", "Measured"]
