"""What every training objective is: named terms over one step's outputs, summed with weights.

Every term is a mean over its own inputs, ID or outliers, never over both together: the weight of
a term does not depend on how many outliers stand in a batch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.classifier import Classifier
from training.outputs import Outputs


@dataclass(frozen=True)
class Batch:
    """One step's outputs, of one forward pass over ID inputs and outliers together.

    labels: (B,) of the ID inputs; `outliers`: None where the objective reads none.
    """

    id_outputs: Outputs
    labels: Tensor
    outliers: Outputs | None = None

    @property
    def exposed(self) -> Outputs:
        """The outliers' outputs; ValueError where there are none."""
        if self.outliers is None:
            raise ValueError("this objective needs outliers, and the batch has none")
        return self.outliers


class Objective(nn.Module):
    """prepare once, start once, then begin_epoch and a loss for every batch, finish at the end.

    prepare(classifier, shares)  before the optimiser is made: adds what it trains beside the
                                 network to `classifier.heads`; ValueError where the network does
                                 not fit
    start(batch)                 logits and penultimate features of the starting network, evaluation
                                 mode, no gradients
    begin_epoch(epoch, classifier)  counted from 0
    forward(batch, classifier)   term -> scalar, not weighted yet, in nats or squared units
    finish(classifier, seen)     after the last epoch, or on its checkpoint: `seen` are the outputs
                                 of un-augmented train-ID, evaluation mode, no gradients

    State that a resumed run must find again is in buffers, weights are in `classifier.heads`.
    `weights` are the defaults of the terms, in their order.
    """

    reference: ClassVar[str]  # arXiv number
    weights: ClassVar[Mapping[str, float]]
    reads_outliers: ClassVar[bool] = False
    comparing: ClassVar[frozenset[str]] = frozenset()  # terms that compare a batch's inputs
    heads: ClassVar[tuple[str, ...]] = ()  # what it leaves in classifier.heads for detectors
    class_prior: Tensor

    def prepare(self, classifier: Classifier, shares: Tensor) -> None:
        """`shares` (K,): how frequent each class is in train-ID; they sum to 1."""
        self.register_buffer("class_prior", shares.float().to(classifier.device))

    def start(self, batch: Batch) -> None:
        """Nothing to measure, unless an objective says otherwise."""

    def begin_epoch(self, epoch: int, classifier: Classifier) -> None:
        """Nothing changes, unless an objective says otherwise."""

    def forward(self, batch: Batch, classifier: Classifier) -> dict[str, Tensor]:
        raise NotImplementedError

    def finish(self, classifier: Classifier, seen: Iterable[Batch]) -> None:
        """Training leaves the network as it is, unless an objective says otherwise."""


class SoftmaxObjective(Objective):
    """An objective with a softmax classifier in it.

    `logit_adjustment` tau: the classes' logits get tau log pi_c in training only, so that rare
    classes are not answered less often than they occur (Menon et al. 2020, arXiv:2007.07314); 0
    leaves the plain cross-entropy.
    """

    def __init__(self, logit_adjustment: float = 0.0) -> None:
        super().__init__()
        if logit_adjustment < 0:
            raise ValueError(f"logit_adjustment is {logit_adjustment}; it must not be negative")
        self.logit_adjustment = logit_adjustment

    def classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, K), labels (B,) -> mean loss, nats."""
        if self.logit_adjustment:
            # a class without any input is never asked for
            logits = logits + self.logit_adjustment * self.class_prior.clamp(min=1e-12).log()
        return F.cross_entropy(logits, labels)


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of weight x term; a term of weight 0 is left out, whatever it is."""
    parts = [weights[name] * term for name, term in terms.items() if weights[name] != 0]
    return torch.stack(parts).sum()
