"""Whether an experiment runs here, and all of them in turn."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data import DataUnavailable
from training.data.downloads import without_downloads
from training.progress import say
from training.suite.catalogue import EXPERIMENTS, Seeds, is_finished, runner
from training.suite.needs import needs


@dataclass(frozen=True)
class Wishes:
    """What the person allows: experiments that want a GPU, and fetching what torchvision offers."""

    gpu: bool = False
    download: bool = False


def hindrance(name: str, wishes: Wishes) -> str | None:
    """Why `all` leaves it out, None where it runs."""
    if EXPERIMENTS[name].gpu and not wishes.gpu:
        return "needs a GPU: --gpu"
    missing = [
        need
        for need in needs(name)
        if need.required
        and (need.state == "missing" or (need.state == "download" and not wishes.download))
    ]
    if not missing:
        return None
    words = [
        f"{need.name} can be downloaded ({need.source}): --download"
        if need.state == "download"
        else f"no {need.name} ({need.source})"
        for need in missing
    ]
    return "; ".join(words)


def run_all(seeds: Seeds, runs: Path, results: Path, wishes: Wishes) -> dict[str, str]:
    """Every experiment that runs here and has no result of today's config and these seeds.

    -> name -> what became of it.  Called again, it goes on where it stopped.  ValueError where a
    GPU is asked for and there is none.
    """
    if wishes.gpu and not torch.cuda.is_available():
        raise ValueError(
            "--gpu: PyTorch finds no GPU here; leave it out, or run one experiment by its name on "
            "the processor, which takes days"
        )
    outcome: dict[str, str] = {}
    for name in EXPERIMENTS:
        outcome[name] = _run_one(name, seeds, runs, results / name, wishes)
        say(f"{name}: {outcome[name]}")
    return outcome


def _run_one(name: str, seeds: Seeds, runs: Path, out: Path, wishes: Wishes) -> str:
    reason = hindrance(name, wishes)
    if reason is not None:
        return f"skipped, {reason}"
    if is_finished(name, seeds, out):
        return f"done before ({out}; delete it to measure again)"
    say(f"{name}: about {EXPERIMENTS[name].minutes * len(seeds)} minutes")
    try:
        with nullcontext() if wishes.download else without_downloads():
            runner(name)(name, seeds, runs / name, out)
    except DataUnavailable as exc:
        return f"skipped, {exc}"
    return f"measured ({out})"
