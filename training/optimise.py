"""The epoch loop: seeded, resumable from its checkpoint to the same weights."""

import json
import math
import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor, nn

from training.augmentation import AUGMENTATIONS
from training.batches import OutlierStream, batch_rows, epoch_batches
from training.classifier import Classifier
from training.config import ObjectiveConfig, OptimiserConfig
from training.data import InputSet, TextSet
from training.objectives import Batch, Objective
from training.outputs import Outputs
from training.processes import rank, world
from training.progress import say, track
from training.step import Step, beside

_FINAL_LR = 1e-6
_OUTLIER_STREAM = 1  # of an epoch, apart from its order and dropout
_RANK_STREAM = 2
_STARTING_INPUTS = 1000  # ID inputs, and outliers, that an objective may look at before it starts


@dataclass(frozen=True)
class Trained:
    """Mean loss of each epoch, nats, and the time all epochs took, resumed ones included."""

    losses: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Run:
    """What a checkpoint belongs to: a checkpoint of anything else is refused.

    `start`: the digest of the weights that training started from, where they were not random.
    """

    backbone: str
    backbone_options: dict[str, Any]
    objective: ObjectiveConfig
    recipe: OptimiserConfig
    seed: int
    start: str | None = None

    def identity(
        self, classifier: Classifier, data: InputSet, outliers: InputSet | None = None
    ) -> str:
        parts = [
            self.backbone,
            self.backbone_options,
            self.objective.identity(),
            self.recipe.model_dump(exclude_defaults=True),  # outlives new fields
            self.seed,
            classifier.spec.model_dump(),
            data.fingerprint(),
        ]
        further = {
            "start": self.start,
            "outliers": outliers.fingerprint() if outliers is not None else None,
        }
        known = {name: value for name, value in further.items() if value is not None}
        return json.dumps([*parts, known] if known else parts, sort_keys=True)


class CheckpointMismatch(Exception):
    """The checkpoint on disk belongs to another configuration or other data."""


@dataclass
class _Progress:
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class _Exposed:
    """Training data as tensors; outliers of one epoch after another."""

    data: InputSet
    labels: Tensor
    outliers: InputSet | None
    mixture: ObjectiveConfig
    recipe: OptimiserConfig

    def batch(self, rows: Tensor, stream: OutlierStream | None) -> Tensor:
        """Augmented inputs (B + M, ...), outliers last."""
        inputs = torch.from_numpy(self.data.batch(_own(rows).numpy()))
        if self.outliers is not None and stream is not None:
            taken = _own(stream.take(_whole_share(self.mixture.outliers_beside(len(rows)))))
            pad_id = self.data.pad_id if isinstance(self.data, TextSet) else None
            inputs = beside(inputs, torch.from_numpy(self.outliers.batch(taken.numpy())), pad_id)
        for name in self.recipe.augmentation:
            inputs = AUGMENTATIONS[name](inputs)
        return inputs


def train(
    classifier: Classifier,
    data: InputSet,
    objective: Objective,
    run: Run,
    checkpoint: Path,
    outliers: InputSet | None = None,
) -> Trained:
    """Train in place.  A checkpoint of the same run is continued after its last epoch.

    Every epoch's order, outliers and dropout follow from (seed, epoch) alone, so a run that was
    cut off and resumed ends with the weights of one that was not.  In a process group every
    process passes its share of a batch through the network, and all end with the same weights.
    """
    recipe = run.recipe
    device = classifier.device
    weights = {**objective.weights, **run.objective.weights}
    _check(objective, weights, recipe, outliers, device)
    identity = run.identity(classifier, data, outliers)
    shares = torch.bincount(torch.from_numpy(data.labels), minlength=len(data.class_names))
    objective.to(device).prepare(classifier, shares / shares.sum())
    step = Step(classifier, objective, weights, mixed_precision=recipe.mixed_precision)
    optimiser = _optimiser(classifier, recipe)
    schedule = _schedule(optimiser, recipe, math.ceil(len(data) / recipe.batch_size))
    exposed = _Exposed(data, torch.from_numpy(data.labels), outliers, run.objective, recipe)
    progress = _Progress()
    state = _State(checkpoint, identity, step, optimiser, schedule)
    if checkpoint.exists():
        progress = state.resume()
    elif type(objective).start is not Objective.start:
        _start(step, exposed)
    # the layout the convolutions of a CPU are fastest in
    classifier.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    step.train()
    # Adadelta's averages of dead weights decay into denormal numbers, which are slow to add
    torch.set_flush_denormal(True)
    module = _distributed(step)
    for epoch in range(len(progress.losses), recipe.epochs):
        started = time.monotonic()
        objective.begin_epoch(epoch, classifier)
        loss, line = _epoch(module, step, exposed, run.seed, epoch, optimiser, schedule)
        progress.losses.append(loss)
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss of epoch {epoch + 1} is {loss}; lower lr")
        progress.seconds += time.monotonic() - started
        say(f"epoch {epoch + 1}/{recipe.epochs}: {line}")
        if rank() == 0:
            state.save(progress)
    if world() > 1:
        distributed.barrier()
    step.eval()
    objective.finish(classifier, _batches(step, data, torch.arange(len(data))))
    return Trained(tuple(progress.losses), progress.seconds)


def _epoch(
    module: nn.Module,
    step: Step,
    exposed: _Exposed,
    seed: int,
    epoch: int,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[float, str]:
    """One pass over the data -> mean loss, and the line that says it."""
    recipe = exposed.recipe
    torch.manual_seed(_epoch_seed(seed, epoch))
    batches = epoch_batches(exposed.data, recipe)
    if world() > 1:
        torch.manual_seed(_epoch_seed(seed, epoch, _RANK_STREAM, rank()))
    stream = None
    if exposed.outliers is not None:
        stream = OutlierStream(len(exposed.outliers), _epoch_seed(seed, epoch, _OUTLIER_STREAM))
    side = _side(recipe, epoch)
    device = step.classifier.device
    total = torch.zeros((), device=device)
    terms: dict[str, Tensor] = {}
    count = 0
    for batch in track(batches, f"epoch {epoch + 1}/{recipe.epochs}"):
        rows = batch[: len(batch) // world() * world()]
        if len(rows) == 0:
            continue
        targets = exposed.labels[_own(rows)].to(device)
        loss, parts = module(exposed.batch(rows, stream).to(device), targets, side)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(step.parameters(), recipe.clip_norm)
        optimiser.step()
        schedule.step()
        count += len(rows)
        total += loss.detach() * len(rows)
        for name, value in parts.items():
            terms[name] = terms.get(name, torch.zeros((), device=device)) + value * len(rows)
    if world() > 1:
        distributed.all_reduce(total)
        total /= world()
    mean = float(total) / count
    named = [name for name in terms if step.weights[name] != 0]
    if len(named) == 1:
        return mean, f"loss {mean:.4f}"
    return mean, f"loss {mean:.4f} (" + ", ".join(
        f"{name} {float(terms[name]) / count:.4f} x {step.weights[name]:g}" for name in named
    ) + ")"


def _check(
    objective: Objective,
    weights: Mapping[str, float],
    recipe: OptimiserConfig,
    outliers: InputSet | None,
    device: torch.device,
) -> None:
    if objective.reads_outliers != (outliers is not None):
        raise ValueError(
            "the objective reads outliers; name some in [outliers]"
            if objective.reads_outliers
            else "the objective reads no outliers; leave [outliers] out"
        )
    if recipe.mixed_precision and device.type != "cuda":
        raise ValueError(
            f"optimiser.mixed_precision is for a GPU; this run is on the {device.type}: set it to "
            "false"
        )
    comparing = sorted(name for name in objective.comparing if weights[name] != 0)
    if world() > 1 and comparing:
        raise ValueError(
            f"the terms {comparing} compare the inputs of a batch with each other, which stand in "
            "several processes under torchrun; train in one process, or give them the weight 0"
        )
    if recipe.batch_size % world():
        raise ValueError(
            f"optimiser.batch_size is {recipe.batch_size}; it must be a multiple of the "
            f"{world()} processes"
        )


@torch.no_grad()
def _start(step: Step, exposed: _Exposed) -> None:
    """The objective sees outputs of the starting network."""
    step.eval()
    rows = _evenly(exposed.data)
    labels = exposed.labels[rows].to(step.classifier.device)
    of_outliers = None
    if exposed.outliers is not None:
        of_outliers = _penultimate(step, exposed.outliers, _evenly(exposed.outliers))
    step.objective.start(Batch(_penultimate(step, exposed.data, rows), labels, of_outliers))


def _evenly(data: InputSet) -> Tensor:
    return torch.linspace(0, len(data) - 1, min(len(data), _STARTING_INPUTS)).long()


def _penultimate(step: Step, data: InputSet, rows: Tensor) -> Outputs:
    """Logits and penultimate features of these inputs; the maps of one batch at a time."""
    features, logits = [], []
    tap = ""
    for batch in _batches(step, data, rows):
        tap = batch.id_outputs.penultimate
        features.append(batch.id_outputs.features)
        logits.append(batch.id_outputs.logits)
    return Outputs({tap: torch.cat(features)}, torch.cat(logits), tap)


@torch.no_grad()
def _batches(step: Step, data: InputSet, rows: Tensor) -> Iterator[Batch]:
    """The outputs of these inputs as they are, as many at once as fit into memory."""
    device = step.classifier.device
    for part in rows.split(batch_rows(data.inputs.shape[1:])):
        inputs = torch.from_numpy(data.batch(part.numpy())).to(device)
        labels = torch.from_numpy(data.labels[part.numpy()]).to(device)
        yield step.outputs(inputs, len(part), labels, None)


def _distributed(step: Step) -> nn.Module:
    """Itself, or a module that sums its gradients over the processes."""
    if world() == 1:
        return step
    devices = [step.classifier.device] if step.classifier.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(step, devices)


def _own(rows: Tensor) -> Tensor:
    """This process's rows of a batch; as many as every other's."""
    return rows[rank() :: world()]


def _whole_share(count: int) -> int:
    """The nearest count that every process has the same share of, at least one."""
    return max(1, round(count / world())) * world()


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


def _side(recipe: OptimiserConfig, epoch: int) -> int | None:
    """The images' side that the recipe wants in this epoch; None: the input's own."""
    sides = [stage.side for stage in recipe.stages if stage.epoch <= epoch]
    return sides[-1] if sides else None


def _epoch_seed(seed: int, epoch: int, *stream: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, *stream]).generate_state(1)[0])


@dataclass(frozen=True)
class _State:
    """What a checkpoint holds."""

    path: Path
    identity: str
    step: Step
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def save(self, progress: _Progress) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        state = {
            "identity": self.identity,
            "classifier": self.step.classifier.state_dict(),
            "objective": self.step.objective.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": progress.losses,
            "seconds": progress.seconds,
        }
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def resume(self) -> _Progress:
        state = torch.load(self.path, weights_only=True)
        if state["identity"] != self.identity:
            raise CheckpointMismatch(
                f"{self.path} belongs to another network, configuration, seed or data set; "
                "remove it or choose another run folder"
            )
        self.step.classifier.load_state_dict(state["classifier"])
        # state that grows with training has another shape than in the beginning
        for name, value in state.get("objective", {}).items():
            setattr(self.step.objective, name, value.to(self.step.classifier.device))
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        say(f"resuming {self.path} after epoch {len(state['losses'])}")
        return _Progress(list(state["losses"]), float(state["seconds"]))
