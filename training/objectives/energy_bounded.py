"""Energy-bounded training: the energy of ID below one margin, that of outliers above another.

Source: Liu et al. 2020, arXiv:2010.03759.  The energy of outliers is raised.
"""

from typing import ClassVar

import torch
from torch import Tensor

from training.classifier import Classifier
from training.objectives.protocol import Batch, SoftmaxObjective
from training.outputs import Outputs


class EnergyBounded(SoftmaxObjective):
    """E = -LSE(f).  Margins: `id_margin` (published for CIFAR-10: -23), `outlier_margin` (-5).

    Both left out: the mean energies of ID and of the outliers in the network that training starts
    from, which must be a trained one.
    """

    reference = "arXiv:2010.03759"
    weights: ClassVar = {"cross_entropy": 1.0, "id_energy": 0.1, "outlier_energy": 0.1}
    reads_outliers = True
    margins: Tensor

    def __init__(
        self,
        id_margin: float | None = None,
        outlier_margin: float | None = None,
        logit_adjustment: float = 0.0,
    ) -> None:
        super().__init__(logit_adjustment)
        if (id_margin is None) != (outlier_margin is None):
            raise ValueError("energy_bounded: give both id_margin and outlier_margin, or neither")
        if id_margin is not None and outlier_margin is not None and id_margin >= outlier_margin:
            raise ValueError(
                f"energy_bounded: id_margin is {id_margin}, outlier_margin {outlier_margin}; the "
                "energy of ID must be the lower one"
            )
        self.measured = id_margin is None
        self.register_buffer("margins", torch.tensor([id_margin or 0.0, outlier_margin or 0.0]))

    def start(self, batch: Batch) -> None:
        if not self.measured:
            return
        of_id, of_outliers = energy(batch.id_outputs).mean(), energy(batch.exposed).mean()
        if of_id >= of_outliers:
            raise ValueError(
                f"energy_bounded: in the network that training starts from, ID has a mean energy "
                f"of {of_id:.3g} and the outliers {of_outliers:.3g}; start from a trained network "
                "(start_from), or give id_margin and outlier_margin"
            )
        self.margins = torch.stack([of_id, of_outliers]).detach()

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        id_margin, outlier_margin = self.margins
        return {
            "cross_entropy": self.classification(batch.id_outputs.logits, batch.labels),
            "id_energy": (energy(batch.id_outputs) - id_margin).relu().square().mean(),
            "outlier_energy": (outlier_margin - energy(batch.exposed)).relu().square().mean(),
        }


def energy(outputs: Outputs) -> Tensor:
    """Logits (B, K) -> (B,)."""
    return -torch.logsumexp(outputs.logits, dim=1)
