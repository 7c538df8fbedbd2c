"""One round's network: trained from new on what has been answered, then asked about the rest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor

from service.bundle import ImageInput
from training.active.labelled import Features, features_of
from training.batches import batch_rows
from training.classifier import Classifier
from training.data import InputSet
from training.graph_detectors import FitContext
from training.graph_detectors.mc_dropout import McDropout
from training.graph_detectors.mixture import Mixture
from training.networks import build_classifier
from training.objectives import OBJECTIVES, Objective
from training.objectives.cross_entropy import CrossEntropy
from training.step import Step

_MOST = 250  # inputs of a pass; all passes of MC dropout run as one batch


class Recipe(BaseModel):
    """How each round's network is trained: `steps` of Adam on `batch_size` labelled inputs, drawn
    with replacement, and on `outliers_beside` rejected ones where the objective reads them.
    `passes`: of MC dropout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    backbone_options: dict[str, JsonValue] = {}
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    batch_size: int = Field(ge=1)
    outliers_beside: int = Field(ge=1)
    steps: int = Field(ge=1)
    passes: int = Field(default=16, ge=2)


@dataclass(frozen=True)
class Votes:
    """What MC dropout says of some inputs: scores (n,), nats, higher = less sure."""

    entropy: NDArray[np.float64]
    mutual_information: NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A classifier, what it was trained by and, of its MC dropout, how many passes."""

    classifier: Classifier
    passes: int
    seed: int
    objective: Objective = field(default_factory=CrossEntropy)

    def features(self, data: InputSet) -> Features:
        return features_of(self.classifier, data)

    def accuracy(self, data: InputSet) -> float:
        """Without dropout."""
        answers = self.features(data).logits.argmax(1).numpy()
        return float((answers == data.labels).mean())

    @torch.no_grad()
    def votes(self, data: InputSet) -> Votes:
        """Entropy and mutual information of MC dropout; the masks are the same for all inputs."""
        dropout = McDropout(self.passes, self.seed)
        probe = torch.from_numpy(np.asarray(data.batch(slice(0, 2))))
        dropout.fit(FitContext(self.classifier, [], probe))
        mixtures = [Mixture.of(dropout.votes(self.classifier, i)) for i in _batches(data)]
        return Votes(
            torch.cat([mixture.entropy() for mixture in mixtures]).double().numpy(),
            torch.cat([mixture.mutual_information() for mixture in mixtures]).double().numpy(),
        )


def trained_network(
    recipe: Recipe,
    spec: ImageInput,
    known: InputSet,
    outliers: InputSet | None,
    exposure: str | None,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> Network:
    """From new weights; `exposure` names the objective once there are rejected inputs, `options`
    are its own."""
    torch.manual_seed(seed)
    classifier = build_classifier(
        spec, recipe.backbone, recipe.backbone_options, len(known.class_names)
    )
    exposed, objective = None, OBJECTIVES["cross_entropy"]()
    if exposure is not None and outliers is not None:
        exposed, objective = outliers, OBJECTIVES[exposure](**(options or {}))
    shares = torch.bincount(torch.from_numpy(known.labels), minlength=len(known.class_names))
    objective.prepare(classifier, shares / shares.sum())
    step = Step(classifier, objective, objective.weights)
    classifier.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.Adam(
        classifier.parameters(), recipe.lr, weight_decay=recipe.weight_decay
    )
    step.train()
    inputs, labels = _all(known), torch.from_numpy(known.labels)
    others = _all(exposed) if exposed is not None else None
    for _ in range(recipe.steps):
        rows = torch.randint(len(inputs), (recipe.batch_size,))
        batch = inputs[rows]
        if others is not None:
            drawn = torch.randint(len(others), (recipe.outliers_beside,))
            batch = torch.cat([batch, others[drawn]])
        loss, _ = step(batch, labels[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    step.eval()
    return Network(classifier, recipe.passes, seed, objective)


def _all(data: InputSet) -> Tensor:
    return torch.from_numpy(np.asarray(data.batch(slice(None))))


def _batches(data: InputSet) -> list[Tensor]:
    size = batch_rows(data.inputs.shape[1:], _MOST)
    starts = range(0, len(data), size)
    return [torch.from_numpy(np.asarray(data.batch(slice(s, s + size)))) for s in starts]
