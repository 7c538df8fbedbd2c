"""The epoch loop: seeded, resumable from its checkpoint to the same weights."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from training.classifier import Classifier
from training.config import OptimiserConfig
from training.data import ImageSet
from training.objectives import Objective
from training.progress import say, track


@dataclass(frozen=True)
class Trained:
    """Mean loss of each epoch, nats, and the time all epochs took, resumed ones included."""

    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Run:
    """What a checkpoint belongs to: a checkpoint of anything else is refused."""

    backbone: str
    objective: str
    recipe: OptimiserConfig
    seed: int

    def identity(self, classifier: Classifier, data: ImageSet) -> str:
        return json.dumps(
            [
                self.backbone,
                self.objective,
                self.recipe.model_dump(),
                self.seed,
                classifier.spec.model_dump(),
                data.fingerprint(),
            ],
            sort_keys=True,
        )


class CheckpointMismatch(Exception):
    """The checkpoint on disk belongs to another configuration or other data."""


def train(
    classifier: Classifier,
    data: ImageSet,
    objective: Objective,
    run: Run,
    checkpoint: Path,
) -> Trained:
    """Train in place.  A checkpoint of the same run is continued after its last epoch.

    Every epoch's order and dropout follow from (seed, epoch) alone, so a run that was cut
    off and resumed ends with the weights of one that was not.
    """
    recipe = run.recipe
    identity = run.identity(classifier, data)
    optimiser = _optimiser(classifier, recipe)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, recipe.decay_per_epoch)
    losses: list[float] = []
    seconds = 0.0
    if checkpoint.exists():
        losses, seconds = _resume(checkpoint, identity, classifier, optimiser, schedule)
    device = next(classifier.parameters()).device
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    classifier.train()
    # Adadelta's averages of dead weights decay into denormal numbers, which are slow to add
    torch.set_flush_denormal(True)
    for epoch in range(len(losses), recipe.epochs):
        started = time.monotonic()
        torch.manual_seed(_epoch_seed(run.seed, epoch))
        batches = torch.randperm(len(data)).split(recipe.batch_size)
        total = torch.zeros((), device=device)
        for batch in track(batches, f"epoch {epoch + 1}/{recipe.epochs}"):
            pixels, targets = images[batch].to(device), labels[batch].to(device)
            loss = objective(classifier(pixels), targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(batch)
        schedule.step()
        losses.append(float(total) / len(data))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of epoch {epoch + 1} is {losses[-1]}; lower lr")
        seconds += time.monotonic() - started
        say(f"epoch {epoch + 1}/{recipe.epochs}: loss {losses[-1]:.4f}")
        progress = {"losses": losses, "seconds": seconds}
        _save(checkpoint, identity, classifier, optimiser, schedule, progress)
    classifier.eval()
    return Trained(tuple(losses), seconds)


def _optimiser(classifier: nn.Module, recipe: OptimiserConfig) -> torch.optim.Optimizer:
    parameters = classifier.parameters()
    if recipe.name == "adadelta":
        return torch.optim.Adadelta(parameters, lr=recipe.lr)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _save(
    checkpoint: Path,
    identity: str,
    classifier: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    progress: dict[str, Any],
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_suffix(".tmp")
    state = {
        "identity": identity,
        "classifier": classifier.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        **progress,
    }
    torch.save(state, temporary)
    os.replace(temporary, checkpoint)


def _resume(
    checkpoint: Path,
    identity: str,
    classifier: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[list[float], float]:
    state = torch.load(checkpoint, weights_only=True)
    if state["identity"] != identity:
        raise CheckpointMismatch(
            f"{checkpoint} belongs to another network, configuration, seed or data set; "
            "remove it or choose another run folder"
        )
    classifier.load_state_dict(state["classifier"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    say(f"resuming {checkpoint} after epoch {len(state['losses'])}")
    return list(state["losses"]), float(state["seconds"])
