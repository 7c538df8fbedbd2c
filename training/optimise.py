"""The epoch loop: seeded, resumable from its checkpoint to the same weights."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

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
    """loss of each epoch (mean, nats) and accuracy on the images it was trained on."""

    losses: tuple[float, ...]


class CheckpointMismatch(Exception):
    """The checkpoint on disk belongs to another configuration or other data."""


def train(
    classifier: Classifier,
    data: ImageSet,
    objective: Objective,
    recipe: OptimiserConfig,
    seed: int,
    checkpoint: Path,
) -> Trained:
    """Train in place.  A checkpoint of the same run is continued after its last epoch.

    Every epoch's order and dropout follow from (seed, epoch) alone, so a run that was cut
    off and resumed ends with the weights of one that was not.
    """
    identity = json.dumps([recipe.model_dump(), seed, data.fingerprint()], sort_keys=True)
    optimiser = _optimiser(classifier, recipe)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, recipe.decay_per_epoch)
    losses: list[float] = []
    if checkpoint.exists():
        losses = _resume(checkpoint, identity, classifier, optimiser, schedule)
    device = next(classifier.parameters()).device
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    classifier.train()
    # Adadelta's averages of dead weights decay into denormal numbers, which are slow to add
    torch.set_flush_denormal(True)
    for epoch in range(len(losses), recipe.epochs):
        torch.manual_seed(_epoch_seed(seed, epoch))
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
        say(f"epoch {epoch + 1}/{recipe.epochs}: loss {losses[-1]:.4f}")
        _save(checkpoint, identity, classifier, optimiser, schedule, losses)
    classifier.eval()
    return Trained(tuple(losses))


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
    losses: list[float],
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    temporary = checkpoint.with_suffix(".tmp")
    state = {
        "identity": identity,
        "classifier": classifier.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "losses": losses,
    }
    torch.save(state, temporary)
    os.replace(temporary, checkpoint)


def _resume(
    checkpoint: Path,
    identity: str,
    classifier: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> list[float]:
    state = torch.load(checkpoint, weights_only=True)
    if state["identity"] != identity:
        raise CheckpointMismatch(
            f"{checkpoint} belongs to another configuration, seed or data set; "
            "remove it or choose another run folder"
        )
    classifier.load_state_dict(state["classifier"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    say(f"resuming {checkpoint} after epoch {len(state['losses'])}")
    return list(state["losses"])
