"""MC dropout: what the sub-networks of one network disagree about.  Higher = more OOD.

Source: Gal & Ghahramani 2016, arXiv:1506.02142.  Only dropout is active; normalisation keeps
its running statistics.

The masks are drawn once, at the fit, and stored: a graph without them would run the same pass
N times.  They are the same for every input, so the N sub-networks are N fixed networks and a
score is a function of its input alone: no draw, no neighbour in the batch enters it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors import FitError, NotFitted
from training.graph_detectors.dropout_calls import (
    Dropout,
    DropoutCall,
    dropout_calls,
    replaced_dropout,
)
from training.graph_detectors.mixture import Mixture
from training.graph_detectors.protocol import FitContext, GraphDetector

_PROBES = 2  # inputs that show where the passes can part
_SAME = 1e-3  # passes with other masks differ by far more, the same ones by rounding


class McDropout(GraphDetector):
    """`mc_dropout`: predictive entropy; `mc_dropout_mi`: mutual information; both in nats.

    `passes` masks for each call of a dropout layer: over the elements of the activation for
    nn.Dropout, over its channels for nn.Dropout1d to 3d.  All passes run as one batch of
    passes x B rows; what comes before the first dropout runs once, unless a connection passes
    that layer by.
    """

    cost = "multi_pass"
    reference = "arXiv:1506.02142"
    summary = (
        "Entropy of the mean softmax of fixed sub-networks drawn by dropout, and (_mi) the mutual "
        "information of class and sub-network; one pass of each sub-network."
    )

    def __init__(self, passes: int = 16, seed: int = 0) -> None:
        super().__init__("mc_dropout", "passes-mc_dropout.onnx")
        if passes < 2:
            raise ValueError(f"mc_dropout: passes is {passes}; at least 2 are needed to disagree")
        self.passes = passes
        self.seed = seed
        self.shares_trunk = False

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return ("", "_mi")

    def check_network(self, classifier: Classifier, inputs: Tensor) -> None:
        point = classifier.continuous(inputs)
        dropout_calls(classifier.backbone, *classifier.arguments(point, inputs))

    def fit(self, context: FitContext) -> None:
        classifier = context.classifier
        if classifier.training:
            raise FitError("mc_dropout: the classifier is in training mode; call eval() first")
        inputs = context.held_out[:_PROBES].to(classifier.device)
        point = classifier.continuous(inputs)
        calls = dropout_calls(classifier.backbone, *classifier.arguments(point, inputs))
        self._buffers.clear()  # of an earlier fit
        for number, mask in enumerate(self._draw(calls)):
            self.register_buffer(f"mask_{number}", mask.to(classifier.device))
        self.shares_trunk = False
        with torch.no_grad():
            whole = self.votes(classifier, inputs)
        self.shares_trunk = True
        self.shares_trunk = self._agrees(classifier, inputs, whole)
        self.register_buffer("shares_trunk_", torch.tensor(self.shares_trunk))

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self.shares_trunk = bool(state["shares_trunk_"])  # a graph cannot branch on a buffer

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {
            "passes": self.passes,
            "seed": self.seed,
            "dropout_calls": len(self.masks),
            "shared_trunk": "yes" if self.shares_trunk else "no",
        }

    @property
    def masks(self) -> list[Tensor]:
        """One (passes, *shape) bool a call, True = kept; NotFitted before `fit`."""
        named = {name: mask for name, mask in self.named_buffers() if name.startswith("mask_")}
        if not named:
            raise NotFitted("mc_dropout has no masks yet; fit it first")
        return [named[f"mask_{number}"] for number in range(len(named))]  # a file sorts by name

    def forward(self, classifier: Classifier, inputs: Tensor) -> dict[str, Tensor]:
        mixture = Mixture.of(self.votes(classifier, inputs))
        return {self.name: mixture.entropy(), f"{self.name}_mi": mixture.mutual_information()}

    def votes(self, classifier: Classifier, inputs: Tensor) -> Tensor:
        """Raw inputs, first dimension B -> logits of every pass (passes, B, K)."""
        masks = self.masks
        point = classifier.continuous(inputs)
        parted = not self.shares_trunk
        if parted:
            point, inputs = (
                given.expand(self.passes, *given.shape).flatten(0, 1) for given in (point, inputs)
            )

        def masked(number: int, layer: Dropout, given: Tensor) -> Tensor:
            """(passes x B, ...), or (B, ...) where the passes part -> (passes x B, ...)."""
            if number == 0 and not parted:
                rows = given.unsqueeze(0)  # (1, B, ...)
            else:
                rows = given.unflatten(0, (self.passes, -1))  # (passes, B, ...)
            kept = masks[number].unsqueeze(1)
            return torch.where(kept, rows / (1 - layer.p), 0.0).flatten(0, 1)

        with replaced_dropout(classifier.backbone, masked) as calls:
            logits = classifier.from_continuous(point, inputs).logits
        if len(calls) != len(masks):
            raise ValueError(
                f"mc_dropout was fitted on a network with {len(masks)} dropout calls; this one has "
                f"{len(calls)}"
            )
        return logits.unflatten(0, (self.passes, -1))

    def _draw(self, calls: list[DropoutCall]) -> list[Tensor]:
        """From the seed alone, on the CPU: the same masks on every machine."""
        generator = torch.Generator().manual_seed(self.seed)
        masks = [
            torch.rand((self.passes, *call.shape), generator=generator) >= call.p for call in calls
        ]
        drawn = torch.cat([mask.flatten(1) for mask in masks], dim=1)
        if len(drawn.unique(dim=0)) < self.passes:
            raise FitError(
                f"mc_dropout: two of {self.passes} passes would drop the same of "
                f"{drawn.shape[1]} units; take fewer passes, or more dropout"
            )
        return masks

    @torch.no_grad()
    def _agrees(self, classifier: Classifier, inputs: Tensor, whole: Tensor) -> bool:
        """Whether passes that part at the first dropout vote as those that part at the input."""
        try:
            votes = self.votes(classifier, inputs)
        except (IndexError, RuntimeError, ValueError):  # B rows of a side path meet passes x B rows
            return False
        return votes.shape == whole.shape and torch.allclose(votes, whole, _SAME, _SAME)
