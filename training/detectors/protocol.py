"""What every detector is.  Scores: higher = more OOD, without exception."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from service.bundle import Cost
from training.classifier import Classifier
from training.outputs import Outputs


class FitError(Exception):
    """The data cannot support the detector; the message says what is too few or broken."""


class NotFitted(Exception):
    """A score was asked of a detector that has not been fitted."""


class Detector(nn.Module):
    """Fitted in one streaming pass, scores per input, exported as part of the graph.

    suffixes, check_network   what is known before anything is trained
    prepare(classifier)       look at the network itself (noise probes, the head's weights);
                              forgets earlier fits
    observe(outputs, labels)  once a batch of un-augmented train-ID; accumulates in float64
    observe_outliers(outputs) then once a batch of the training outliers, where the run has some
    observe_held_out(...)     then once a batch of dev-ID, for what train-ID would flatter
    finish()                  turn what was seen into buffers; FitError where the network or the
                              data cannot support the detector
    remarks()                 what the report must say of this fit, read off the buffers
    forward(outputs)          score name -> (B,), float32; reads nothing but its arguments

    Fitted state is buffers only, so `state_dict` holds all of it and `restore` brings it back.
    """

    cost: ClassVar[Cost] = "logits"
    # whether `observe` and its like want every tap as the network gives it, or maps averaged
    reads_maps: ClassVar[bool] = False
    # of how many train-ID inputs a reader of maps learns enough; None: it is shown all of them
    enough: ClassVar[int | None] = None
    reference: ClassVar[str]  # arXiv number
    reads_outliers: bool = False  # whether `observe_outliers` wants the training outliers
    summary: ClassVar[str]  # one sentence for the report: what it measures, what it needs

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        """What follows the registry's name in the names of the scores, in their order; known
        before any fit."""
        return ("",)

    def check_network(self, outputs: Outputs) -> None:
        """FitError where an untrained network's outputs show that it cannot support this."""

    def prepare(self, classifier: Classifier) -> None:
        """Nothing to look at, unless a detector says otherwise."""

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        """Nothing to accumulate, unless a detector says otherwise."""

    def observe_outliers(self, outputs: Outputs) -> None:
        """Nothing to learn from outliers, unless a detector says otherwise."""

    def observe_held_out(self, outputs: Outputs, labels: Tensor) -> None:
        """Nothing to learn from held-out ID data, unless a detector says otherwise."""

    def finish(self) -> None:
        """Nothing to estimate, unless a detector says otherwise."""

    def remarks(self) -> tuple[str, ...]:
        """Sentences for the report where an assumption of the detector hardly holds."""
        return ()

    def hyperparameters(self) -> dict[str, float | int | str]:
        """What the manifest records."""
        return {}

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        raise NotFitted(f"{type(self).__name__} defines no score")

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the buffers of another instance's `state_dict`."""
        for name, value in state.items():
            self.register_buffer(name, value)

    def fitted(self, name: str) -> Tensor:
        """The fitted buffer of that name; NotFitted before `finish`."""
        value = self._buffers.get(name)
        if value is None:
            raise NotFitted(f"{type(self).__name__} has no {name} yet; fit it first")
        return value

    def noted(self, name: str) -> Tensor | None:
        """A buffer that remarks alone read; None before `finish`, and in older bundles."""
        return self._buffers.get(name)
