"""Detectors that look at the input again, after one small step along its gradient.

For each *sweep*: L a loss read off one tensor of the first pass, g = dL/du for the continuous
form u of the input, one step u' = u - epsilon * direction(g) * unit, a second pass, a score.
Of an image u is the normalised image and unit = 1 / std, so that epsilon is in raw [0, 1] pixel
units; of a text u is its word embeddings and the unit their spread over the vocabulary.  The
derivative of L by that tensor is written in closed form; from there to u it is autograd's work
here, and that of the exported graph's own backward nodes in the service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors import NotFitted
from training.graph_detectors.protocol import FitContext, GraphDetector
from training.outputs import Outputs

Direction = Literal["sign", "standardised"]
# The grid of Hsu et al. 2020, arXiv:2002.11297, there in raw pixel units.
OOD_FREE_EPSILONS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
_SELECTION_INPUTS = 500
_BATCH = 100
SMALLEST_SPREAD = 1e-12


@dataclass(frozen=True)
class Sweep:
    """One step: back from a tensor of the first pass to the input.

    `score` is read off the stepped input.
    """

    name: str
    score: str


class GradientDetector(GraphDetector):
    """Sweeps and closed-form derivatives come from subclasses; the steps are fitted here.

    epsilon: one number for every sweep, or None: each sweep takes the one of
    OOD_FREE_EPSILONS whose stepped held-out ID inputs look most ID (no OOD data).
    """

    cost = "gradient"
    direction: Direction = "sign"

    def __init__(self, name: str, epsilon: float | None) -> None:
        super().__init__(name, f"perturbed-{name.replace('_perturbed', '')}.onnx")
        if epsilon is not None and not 0 <= epsilon <= 1:
            raise ValueError(
                f"{name}: epsilon is {epsilon}; it is a share of the pixel range, or of the spread "
                "of word embeddings: 0 to 1"
            )
        self.epsilon = epsilon

    def sweeps(self, outputs: Outputs) -> tuple[Sweep, ...]:
        """In the order of the fitted steps."""
        raise NotImplementedError

    def cotangents(self, outputs: Outputs) -> dict[str, tuple[Tensor, Tensor]]:
        """Sweep name -> (a tensor of the pass, dL/d(tensor) of the same shape)."""
        raise NotImplementedError

    def scores(self, outputs: Outputs) -> dict[str, Tensor]:
        """Every sweep's score (B,), read off one pass."""
        raise NotImplementedError

    def id_likeness(self, scores: Tensor) -> Tensor:
        """Scores (N,) -> what is averaged to choose a step; larger = more ID."""
        return -scores

    def adopt(self, context: FitContext) -> None:
        """Copy fitted statistics of other detectors; nothing unless a subclass says so."""

    @property
    def steps(self) -> Tensor:
        """(sweeps,) epsilons; NotFitted before `fit`."""
        value = self._buffers.get("epsilons")
        if value is None:
            raise NotFitted(f"{self.name} has no steps yet; fit it first")
        return value

    def fit(self, context: FitContext) -> None:
        device = context.classifier.device
        self.adopt(context)
        self.to(device)
        inputs = context.held_out[:_SELECTION_INPUTS].to(device)
        with torch.no_grad():
            sweeps = self.sweeps(context.classifier(inputs[:1]))
        if self.epsilon is not None:
            self.register_buffer("epsilons", torch.full((len(sweeps),), self.epsilon))
            return
        chosen = [self._most_id_like(context.classifier, inputs, sweep) for sweep in sweeps]
        self.register_buffer("epsilons", torch.tensor(chosen))

    def hyperparameters(self) -> dict[str, float | int | str]:
        how = "ID data" if self.epsilon is None else "fixed"
        values = {f"epsilon_{i}": round(v, 6) for i, v in enumerate(self.steps.tolist())}
        return {"epsilon_from": how, "direction": self.direction, **values}

    def forward(self, classifier: Classifier, inputs: Tensor) -> dict[str, Tensor]:
        """The reference that exported graphs are held to; autograd must be allowed."""
        found: dict[str, Tensor] = {}
        gradients = self.gradients(classifier, inputs)
        for sweep, step in zip(gradients, self.steps, strict=True):
            stepped = self.stepped(classifier, inputs, gradients[sweep], step)
            with torch.no_grad():
                outputs = classifier.from_continuous(stepped, inputs)
                found[sweep.score] = self.scores(outputs)[sweep.score]
        return found

    def gradients(self, classifier: Classifier, inputs: Tensor) -> Mapping[Sweep, Tensor]:
        """Raw inputs -> dL/du of every sweep, from one forward pass."""
        with torch.enable_grad():
            point = classifier.continuous(inputs).detach().requires_grad_()
            outputs = classifier.from_continuous(point, inputs)
            cotangents = self.cotangents(outputs)
        found: dict[Sweep, Tensor] = {}
        for sweep in self.sweeps(outputs):
            tensor, cotangent = cotangents[sweep.name]
            (found[sweep],) = torch.autograd.grad(
                tensor, point, cotangent.detach(), retain_graph=True
            )
        return found

    def stepped(
        self, classifier: Classifier, inputs: Tensor, gradient: Tensor, step: Tensor
    ) -> Tensor:
        """u - step * direction(g) * unit; a zero gradient counts as positive."""
        if self.direction == "sign":
            direction = torch.where(gradient >= 0, 1.0, -1.0)
        else:
            direction = standardised(gradient, classifier.present(inputs))
        return classifier.continuous(inputs) - direction * classifier.step(step)

    def _most_id_like(self, classifier: Classifier, inputs: Tensor, sweep: Sweep) -> float:
        totals = torch.zeros(len(OOD_FREE_EPSILONS), dtype=torch.float64)
        for part in inputs.split(_BATCH):
            gradient = self.gradients(classifier, part)[sweep]
            for index, epsilon in enumerate(OOD_FREE_EPSILONS):
                moved = self.stepped(classifier, part, gradient, torch.tensor(epsilon))
                with torch.no_grad():
                    scores = self.scores(classifier.from_continuous(moved, part))[sweep.score]
                totals[index] += self.id_likeness(scores).double().sum().cpu()
        return OOD_FREE_EPSILONS[int(totals.argmax())]


def standardised(gradient: Tensor, present: Tensor) -> Tensor:
    """Gradient (B, ...) minus its mean, over its standard deviation, each input by itself.

    `present` broadcasts over it: 1 where it counts, 0 on padding, which stays 0.
    """
    axes = tuple(range(1, gradient.dim()))
    count = present.expand_as(gradient).sum(dim=axes, keepdim=True)
    centred = (gradient - gradient.sum(dim=axes, keepdim=True) / count) * present
    spread = (centred.square().sum(dim=axes, keepdim=True) / count).sqrt()
    return centred / spread.clamp(min=SMALLEST_SPREAD)


def layer_score(prefix: str, layer: str, penultimate: str) -> str:
    """`prefix` for the penultimate layer, `prefix_<layer>` for each other one."""
    return prefix if layer == penultimate else f"{prefix}_{layer}"


def spread_over_map(gradient: Tensor, tap: Tensor) -> Tensor:
    """Derivative by the spatial mean (B, C) -> derivative by the map (B, C, H, W)."""
    if tap.dim() == 2:
        return gradient
    height, width = tap.shape[2:]
    return (gradient / (height * width))[:, :, None, None].expand(-1, -1, height, width)


def sweep_per_layer(layers: Sequence[str], prefix: str, penultimate: str) -> tuple[Sweep, ...]:
    """One sweep for every tapped layer."""
    return tuple(Sweep(layer, layer_score(prefix, layer, penultimate)) for layer in layers)
