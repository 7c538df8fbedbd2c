"""Training losses by name.  A new objective is one file and one line here."""

from collections.abc import Callable

from torch import Tensor

from training.objectives.cross_entropy import cross_entropy
from training.outputs import Outputs

Objective = Callable[[Outputs, Tensor], Tensor]
OBJECTIVES: dict[str, Objective] = {"cross_entropy": cross_entropy}

__all__ = ["OBJECTIVES", "Objective"]
