"""The epoch loop: seeded, resumable from its checkpoint to the same weights."""

import json
import math
import os
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.augmentation import AUGMENTATIONS
from training.classifier import Classifier
from training.config import OptimiserConfig
from training.data import InputSet, TextSet
from training.objectives import Objective
from training.progress import say, track

_FINAL_LR = 1e-6
_POOL = 50  # batches that are sorted by length together


@dataclass(frozen=True)
class Trained:
    """Mean loss of each epoch, nats, and the time all epochs took, resumed ones included."""

    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Run:
    """What a checkpoint belongs to: a checkpoint of anything else is refused."""

    backbone: str
    backbone_options: dict[str, Any]
    objective: str
    recipe: OptimiserConfig
    seed: int

    def identity(self, classifier: Classifier, data: InputSet) -> str:
        return json.dumps(
            [
                self.backbone,
                self.backbone_options,
                self.objective,
                self.recipe.model_dump(exclude_defaults=True),  # outlives new fields
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
    data: InputSet,
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
    steps = math.ceil(len(data) / recipe.batch_size)
    schedule = _schedule(optimiser, recipe, steps)
    losses: list[float] = []
    seconds = 0.0
    if checkpoint.exists():
        losses, seconds = _resume(checkpoint, identity, classifier, optimiser, schedule)
    device = next(classifier.parameters()).device
    labels = torch.from_numpy(data.labels)
    # the layout the convolutions of a CPU are fastest in
    classifier.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    classifier.train()
    # Adadelta's averages of dead weights decay into denormal numbers, which are slow to add
    torch.set_flush_denormal(True)
    for epoch in range(len(losses), recipe.epochs):
        started = time.monotonic()
        torch.manual_seed(_epoch_seed(run.seed, epoch))
        batches = _batches(data, recipe)
        total = torch.zeros((), device=device)
        for batch in track(batches, f"epoch {epoch + 1}/{recipe.epochs}"):
            inputs, targets = torch.from_numpy(data.batch(batch.numpy())), labels[batch].to(device)
            for name in recipe.augmentation:
                inputs = AUGMENTATIONS[name](inputs)
            inputs = inputs.to(device)
            point = _resized(classifier.continuous(inputs), recipe, epoch)
            loss = objective(classifier.from_continuous(point, inputs), targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(classifier.parameters(), recipe.clip_norm)
            optimiser.step()
            schedule.step()
            total += loss.detach() * len(batch)
        losses.append(float(total) / len(data))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of epoch {epoch + 1} is {losses[-1]}; lower lr")
        seconds += time.monotonic() - started
        say(f"epoch {epoch + 1}/{recipe.epochs}: loss {losses[-1]:.4f}")
        progress = {"losses": losses, "seconds": seconds}
        _save(checkpoint, identity, classifier, optimiser, schedule, progress)
    classifier.eval()
    return Trained(tuple(losses), seconds)


def _batches(data: InputSet, recipe: OptimiserConfig) -> Sequence[Tensor]:
    """An epoch's batches, indices (B,), by torch's global seed."""
    order = torch.randperm(len(data))
    if not recipe.like_lengths or not isinstance(data, TextSet):
        return order.split(recipe.batch_size)
    lengths = torch.from_numpy(data.lengths())
    batches = [
        batch
        for pool in order.split(_POOL * recipe.batch_size)
        for batch in pool[lengths[pool].argsort(stable=True)].split(recipe.batch_size)
    ]
    return [batches[index] for index in torch.randperm(len(batches))]


def _optimiser(classifier: nn.Module, recipe: OptimiserConfig) -> torch.optim.Optimizer:
    parameters = [value for value in classifier.parameters() if value.requires_grad]
    if recipe.name == "adadelta":
        return torch.optim.Adadelta(parameters, lr=recipe.lr)
    if recipe.name in ("adam", "adamw"):
        kind = torch.optim.Adam if recipe.name == "adam" else torch.optim.AdamW
        return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )


def _schedule(
    optimiser: torch.optim.Optimizer, recipe: OptimiserConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Stepped once a batch; `steps` batches make an epoch."""
    starts = [0, *(restart.epoch for restart in recipe.restarts), recipe.epochs]
    peaks = [recipe.lr, *(restart.lr for restart in recipe.restarts)]
    rising = recipe.warmup * recipe.epochs * steps

    def factor(step: int) -> float:
        return scheduled(step) * min(1.0, (step + 1) / rising if rising else 1.0)

    def scheduled(step: int) -> float:
        if recipe.schedule == "steps":
            return recipe.decay_per_epoch ** (step // steps)
        cycle = min(bisect_right(starts, step // steps), len(peaks)) - 1
        first, end, peak = starts[cycle], starts[cycle + 1], peaks[cycle]
        done = (step - first * steps) / ((end - first) * steps)
        lr = _FINAL_LR + (peak - _FINAL_LR) * (1 + math.cos(math.pi * done)) / 2
        return lr / recipe.lr

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _resized(images: Tensor, recipe: OptimiserConfig, epoch: int) -> Tensor:
    """(B, C, H, W) at the side the recipe wants in this epoch; without stages, as given."""
    sides = [stage.side for stage in recipe.stages if stage.epoch <= epoch]
    if not sides or sides[-1] == images.shape[2]:
        return images
    side = (sides[-1], sides[-1])
    return F.interpolate(images, side, mode="bilinear", antialias=True, align_corners=False)


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
